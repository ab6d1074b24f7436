"""Parts of the benchmarks against their definitions."""

import numpy as np
import pytest
import torch

from tests.edits.dictionaries import random_sae
from unbox.edits.transport import UpdatePair
from unbox.ground_truth.bench.mean_maps import MAPPED, MeanMaps, centred
from unbox.ground_truth.bench.methods import DICTIONARIES, Joint, carriers, change, dictionaries, untrained
from unbox.ground_truth.bench.probing import probe
from unbox.ground_truth.bench.scene_pairs import KINDS, changing, patch, scene_pairs
from unbox.ground_truth.bench.trade_off import area_under, best_of
from unbox.shapes import FACTORS, masks, sample_scenes
from unbox.shapes.render import CENTRES

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


def test_every_value_that_has_maps_has_a_kind_that_changes_its_factor():
    assert {KINDS[changing(factor)] for factor, _ in MAPPED} == {factor for factor, _ in MAPPED}


def test_patching_is_the_donors_update():
    draw = np.random.default_rng(1)
    pair = UpdatePair(*({"mid.0": draw.standard_normal((2, 4, 4, 6)).astype(np.float32)} for _ in range(2)))
    from unbox.edits.program import Program

    program = Program(tuple(patch(pair, "mid.0")), 6)
    for step in range(2):
        now = torch.from_numpy(pair.original["mid.0"][step])[None]
        assert torch.allclose(
            now + program.delta(now, None, step, "cond"),
            torch.from_numpy(pair.donor["mid.0"][step]),
            atol=1e-5,
        )


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
    assert best_of(list(enumerate(POINTS))) == (1, POINTS[1])
    costly = [{**p, "collateral": p["collateral"] + 0.2} for p in POINTS]
    assert best_of(list(enumerate(costly))) == (1, costly[1])


def test_equals_in_success_are_told_by_collateral_then_by_which_was_tried_first():
    """Strengths are tried as they are listed, so of several that change every trial picture the first."""
    every = [{"strength": s, "success": 1.0, "collateral": 0.0} for s in (2, 4)]
    assert best_of(list(enumerate(every))) == (0, every[0])
    costlier_first = [{**every[0], "collateral": 0.05}, every[1]]
    assert best_of(list(enumerate(costlier_first))) == (1, every[1])
    with_artifacts = [{**every[0], "artifacts": 0.4}, {**every[1], "artifacts": 0.0}]
    assert best_of(list(enumerate(with_artifacts))) == (0, with_artifacts[0])


def test_area_under_the_trade_off():
    assert area_under([{"success": 1.0, "collateral": 0.0}]) == 1.0
    assert area_under([{"success": 1.0, "collateral": 0.6}]) == 0.0
    assert area_under(POINTS) == pytest.approx((0.3 * 6 + 0.8 * 43) / 51)


class Rows:
    """Updates in which channel 0 is on objects that are red and channel 1 in dim light; the rest is noise."""

    def __init__(self, scenes):
        draw = np.random.default_rng(0)
        self.shape = (len(scenes), 1, 1, 8, 8, 6)
        self.updates = 0.1 * draw.standard_normal(self.shape).astype(np.float32)
        for i, scene in enumerate(scenes):
            for drawn, thing in zip(masks(scene), scene.objects, strict=True):
                on = drawn.reshape(8, 16, 8, 16).mean((1, 3)) > 0.5
                self.updates[i, 0, 0, on, 0] += 3.0 * (thing.colour == "red")
            self.updates[i, ..., 1] += 3.0 * (scene.light == "dim")

    def read(self, i):
        return self.updates[i]


class RedEverywhere(Rows):
    """Updates in which channel 0 is at every place of scenes with a red object; the rest is noise."""

    def __init__(self, scenes):
        super().__init__(scenes)
        self.updates[..., 0] %= 0.1
        for i, scene in enumerate(scenes):
            self.updates[i, ..., 0] += 3.0 * (scene.objects[0].colour == "red")


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


def alone(count, seed=1):
    return [scene for scene in sample_scenes(2 * count, seed=seed) if len(scene.objects) == 1][:count]


@pytest.fixture(scope="module")
def planted():
    """Dictionaries and mean maps of a block in which red and dim are channels."""
    scenes = sample_scenes(400, seed=1)
    rows = Rows(scenes)
    held = dictionaries(random_sae(latents=12, k=3), rows.updates.reshape(-1, 6)[:2000])
    return held, MeanMaps(held, rows, scenes)


@pytest.mark.parametrize("position", CENTRES)
@pytest.mark.parametrize("side", [8, 16])
def test_maps_are_centred_on_the_object_and_go_back(position, side):
    x, y = (int(c) for c in CENTRES[position])
    fine = np.zeros((64, 64), np.float32)
    fine[y - 8 : y + 8, x - 8 : x + 8] = 1
    maps = fine.reshape(side, 64 // side, side, 64 // side).mean((1, 3))[..., None]
    middle = centred(maps, position)
    expected = np.zeros((side, side))
    expected[3 * side // 8 : 5 * side // 8, 3 * side // 8 : 5 * side // 8] = 1
    assert np.array_equal(middle[..., 0], expected)
    assert np.array_equal(centred(middle, position, back=True), maps)


def test_mean_maps_are_means_over_the_images_of_a_value(planted):
    held, maps = planted
    scenes = sample_scenes(400, seed=1)
    rows = Rows(scenes)
    dim = [i for i, s in enumerate(scenes) if len(s.objects) == 1 and s.light == "dim"]
    codes = held["pca"].encode(torch.from_numpy(rows.updates[dim, 0, 0])).values.numpy()
    assert maps.counts["light", "dim"] == len(dim)
    assert np.allclose(maps.mean("pca", ("light", "dim")), codes.mean(0), atol=1e-4)


@pytest.mark.parametrize("method", [*DICTIONARIES, "steering"])
@pytest.mark.parametrize("spread", ["map", "flat"])
def test_a_change_moves_the_planted_channel_where_the_object_is(planted, method, spread):
    """Towards red: channel 0 rises on the object; an image that is red already is left alone."""
    from unbox.edits.program import Program

    held, maps = planted
    made = change(held, maps, method, ("colour", "red"), 3, spread)
    assert len(made.features) == (6 if method == "steering" else 3)
    large = [s for s in alone(400) if s.objects[0].size == "large" and s.objects[0].shape == "square"]
    blue, red = (
        next(s for s in large if (s.objects[0].colour == "red") is is_red) for is_red in (False, True)
    )
    assert not len(made.edits(red, 2.0))
    delta = Program(tuple(made.edits(blue, 2.0)), 6).delta(torch.zeros(1, 8, 8, 6), None, 0, "cond")
    on = torch.from_numpy(masks(blue)[0].reshape(8, 16, 8, 16).mean((1, 3)) > 0.9)
    assert delta.norm() > 0
    if method in ("neurons", "pca", "steering"):  # random encoders need not read the channel
        assert delta[0, on][:, 0].mean() > (3.0 if spread == "map" else 1.5)
        assert delta[0, :, :, 0].mean() < 0.5 * delta[0, on][:, 0].mean()


def test_a_joint_change_is_its_parts_each_at_its_block(planted):
    held, maps = planted
    value, scene = ("light", "dim"), next(s for s in alone(50) if s.light != "dim")
    parts = tuple(change(held, maps, "sae", value, size, "map") for size in (1, 2))
    made = Joint(parts)
    assert list(made.edits(scene, 2.0)) == [e for part in parts for e in part.edits(scene, 2.0)]


def test_carriers_are_the_features_a_value_has_most_of(planted):
    held, maps = planted
    value = ("colour", "red")
    gain = maps.gain("sae", value)
    chosen = carriers(held, maps, value, 2)
    assert set(chosen) <= set(np.flatnonzero(gain > 0))
    norms = held["sae"].W_dec.norm(dim=1).numpy()
    assert int(np.argmax(gain * norms)) == chosen[0]
