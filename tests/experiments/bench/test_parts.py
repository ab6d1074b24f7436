"""Parts of the benchmarks against their definitions."""

import numpy as np
import pytest
import torch

from tests.edits.dictionaries import random_sae
from unbox.edits.transport import Pair
from unbox.experiments.bench.causing import area_under, best
from unbox.experiments.bench.kept import Kept
from unbox.experiments.bench.methods import (
    DICTIONARIES,
    METHODS,
    contrast_set,
    dictionaries,
    directions,
    untrained,
)
from unbox.experiments.bench.pairs import KINDS, patch, scene_pairs
from unbox.experiments.bench.probing import Pooled, probe
from unbox.shapes import FACTORS, masks, sample_scenes

SAMPLE = np.random.default_rng(0).standard_normal((300, 6)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_differs_in_its_kind_alone(kind):
    for pair in scene_pairs(kind, 5, seed=2):
        before, after = pair.original.factors(), pair.edited.factors()
        changed = {name for name in FACTORS if before[name] != after[name]}
        assert changed == {KINDS[kind]}
        assert pair.original_prompt != pair.edited_prompt
        assert len(pair.edited.objects) - len(pair.original.objects) == {
            "add object": 1,
            "delete object": -1,
        }.get(kind, 0)
    assert scene_pairs(kind, 5, seed=2) == scene_pairs(kind, 5, seed=2)
    assert scene_pairs(kind, 5, seed=2)[:3] == scene_pairs(kind, 3, seed=2)


def reading(scene):
    """What a perfect detector says of a scene."""
    slots = [
        {n: getattr(thing, n) for n in ("shape", "colour", "size", "texture", "position")}
        for thing in scene.objects
    ]
    said = {name: getattr(scene, name) for name in ("relation", "background", "light")}
    return {"objects": len(slots), **said, "slots": slots}


@pytest.mark.parametrize("kind", KINDS)
def test_the_edited_scene_counts_as_success_without_harm_and_the_original_does_not(kind):
    for pair in scene_pairs(kind, 5):
        before, after = reading(pair.original), reading(pair.edited)
        assert pair.succeeded(after)
        assert not pair.succeeded(before)
        assert pair.harm(before, after) == 0
        elsewhere = {**after, "light": "dim" if after["light"] != "dim" else "bright"}
        assert (pair.harm(before, elsewhere) > 0) == (kind != "change light")


def test_patching_is_the_donors_update():
    draw = np.random.default_rng(1)
    pair = Pair(*({"mid.0": draw.standard_normal((2, 4, 4, 6)).astype(np.float32)} for _ in range(2)))
    from unbox.edits.program import Program

    program = Program(tuple(patch(pair, "mid.0")), 6)
    for step in range(2):
        now = torch.from_numpy(pair.original["mid.0"][step])[None]
        assert torch.allclose(
            now + program.delta(now, None, step, "cond"),
            torch.from_numpy(pair.donor["mid.0"][step]),
            atol=1e-5,
        )


def test_every_method_offers_a_direction_of_the_asked_norm():
    sae = random_sae()
    held = dictionaries(sae, SAMPLE)
    assert set(held) == set(DICTIONARIES)
    draw = np.random.default_rng(2)
    contrasts = {name: draw.standard_normal(len(of.W_dec)) for name, of in held.items()}
    made = directions(held, contrasts, draw.standard_normal(6), 4, seed=0)
    assert tuple(made) == METHODS
    for name, direction in made.items():
        edits = direction.add(2.0)
        from unbox.edits.program import Program

        delta = Program(tuple(edits), 6).delta(torch.zeros(1, 1, 1, 6), None, 0, "cond")
        deviation = (
            sae.update_std if name in ("sae", "untrained", "steering", "random") else held[name].update_std
        )
        assert float(delta.norm()) == pytest.approx(2.0 * deviation, rel=1e-4), name


def test_a_set_adds_what_the_value_brings_and_takes_what_it_displaces():
    chosen = contrast_set(random_sae(), np.array([0.1, -0.9, 0.5] + [0.0] * 9), 3)
    assert chosen.features == (2, 1, 0)
    assert chosen.weights == pytest.approx((0.5, -0.9, 0.1))


def test_an_untrained_sae_has_the_shape_and_its_own_statistics():
    sae = random_sae()
    blank = untrained(sae, SAMPLE)
    assert (blank.latents, blank.width, blank.k) == (sae.latents, sae.width, sae.k)
    dense = blank.encode(torch.from_numpy(SAMPLE)).dense(blank.latents)
    active = dense > 0
    assert torch.allclose(blank.stats.mean_active, dense.sum(0) / active.sum(0).clamp(min=1), atol=1e-5)
    assert torch.allclose(blank.stats.density, active.float().mean(0))


POINTS = [
    {"strength": 1, "success": 0.3, "collateral": 0.02},
    {"strength": 2, "success": 0.8, "collateral": 0.08},
    {"strength": 4, "success": 1.0, "collateral": 0.6},
]


def test_the_best_point_is_the_most_successful_within_the_budget():
    assert best(POINTS)["strength"] == 2
    assert best([{**p, "collateral": p["collateral"] + 0.2} for p in POINTS])["strength"] == 2


def test_area_under_the_trade_off():
    assert area_under([{"success": 1.0, "collateral": 0.0}]) == 1.0
    assert area_under([{"success": 1.0, "collateral": 0.6}]) == 0.0
    assert area_under(POINTS) == pytest.approx((0.3 * 6 + 0.8 * 43) / 51)


def test_results_are_kept_by_what_decides_them(tmp_path):
    calls = []

    def compute(x):
        calls.append(x)
        return x + 1

    kept = Kept(tmp_path, {"model": "a"})
    assert [kept.get(["k"], compute, 1), kept.get(["k"], compute, 1)] == [2, 2]
    assert Kept(tmp_path, {"model": "b"}).get(["k"], compute, 5) == 6
    assert calls == [1, 5]


class Rows:
    """Updates in which channel 0 is on objects that are red and channel 1 in dim light; the rest is noise."""

    def __init__(self, scenes):
        draw = np.random.default_rng(0)
        self.shape = (len(scenes), 1, 1, 8, 8, 6)
        self.updates = 0.1 * draw.standard_normal(self.shape).astype(np.float32)
        for i, scene in enumerate(scenes):
            for drawn, thing in zip(masks(scene), scene.objects, strict=True):
                on = drawn.reshape(8, 8, 8, 8).mean((1, 3)) > 0.5
                self.updates[i, 0, 0, on, 0] += 3.0 * (thing.colour == "red")
            self.updates[i, ..., 1] += 3.0 * (scene.light == "dim")

    def read(self, i):
        return self.updates[i]


def test_probing_finds_planted_features_and_where_they_are():
    scenes = sample_scenes(200, seed=1)
    rows = Rows(scenes)
    held = dictionaries(random_sae(latents=12, k=3), rows.updates.reshape(-1, 6)[:2000])
    found = {(r["factor"], r["value"]): r for r in probe(held["neurons"], rows, scenes)}
    red, dim = found["colour", "red"], found["light", "dim"]
    assert (red["feature"], red["iou_feature"], dim["feature"]) == (0, 0, 1)
    assert red["auroc"] > 0.99
    assert dim["auroc"] > 0.99
    assert abs(found["size", "large"]["auroc"] - 0.5) < 0.25
    pooled = Pooled(held, rows, scenes)
    contrast = pooled.contrast("update", ("colour", "red"))
    assert np.argmax(contrast) == 0
    assert contrast[0] > 1.5
    assert np.argmax(pooled.contrast("neurons", ("light", "dim"))) == 1
