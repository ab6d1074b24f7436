"""What a plan of training refuses, before anything is computed, and the memory that one takes."""

import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.sae.worlds import noise
from unbox.errors import UnboxError
from unbox.sae import ArrayRows, Plan, Spec, read_toml, specs, train
from unbox.sae.checkpoint import STATE, CheckpointWriter, latest, restore
from unbox.sae.metric_trackers import rewind
from unbox.sae.plan import SpecGrid, make_plan
from unbox.sae.plan_checks import check_plan
from unbox.sae.training_run import TrainingRun
from unbox.sae.variants import VARIANTS
from unbox.site import DEFAULT_BLOCKS

REFUSED = [
    (Spec, {"block": "../x"}, r"Spec: block = '\.\./x': should be a name"),
    (Spec, {"k": True}, "Spec: k = True: should be a whole number"),
    (Spec, {"seed": -1}, "Spec: seed = -1: should be at least 0"),
    (Spec, {"lr": 1}, "Spec: lr = 1: should be less than 1"),
    (Spec, {"levels": "ab"}, r"Spec: levels\[0\] = 'ab': should be a whole number"),
    (SpecGrid, {"latents": [8, 0]}, r"SpecGrid: latents\[1\] = 0: should be at least 1"),
    (Plan, {"aux": float("nan")}, "Plan: aux = nan: should be a finite number"),
    (Plan, {"clip_norm": 0}, "Plan: clip_norm = 0: should be more than 0"),
    (Plan, {"warmup": -1}, "Plan: warmup = -1: should be at least 0"),
    (Plan, {"saes": [3]}, r"Plan: saes\[0\] = 3: should be an instance of Spec"),
]


@pytest.mark.parametrize(("kind", "options", "message"), REFUSED)
def test_refused(kind, options, message):
    with pytest.raises(UnboxError, match=message):
        kind(**options)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "a plan: 3: should be an object"),
        ({"saes": 3}, "a plan: saes = 3: should be a list"),
        ({"saes": [{"k": 0}]}, r"a plan: saes\[0\]: k = 0: should be at least 1"),
        ({"clip": 1, "clip_norm": 1}, "clip is now called clip_norm; give it once"),
    ],
)
def test_json_that_is_no_plan(value, message):
    with pytest.raises(UnboxError, match=message):
        Plan.from_json(value)


def test_the_plan_of_shapes_has_one_sae_of_each_default_block():
    plan = read_toml(Path(__file__).parents[2] / "examples" / "shapes_saes.toml")
    assert sorted(sae.block for sae in plan.saes) == sorted(DEFAULT_BLOCKS)
    assert {sae.block: sae.variant for sae in plan.saes}["mid.0"] == "topk"
    assert {(sae.k, sae.latents) for sae in plan.saes} == {(32, 384)}
    assert list(plan.names()) == list(dict.fromkeys(plan.names()))


def test_variants_can_be_named_without_torch():
    (variants,) = (field for field in fields(SpecGrid) if field.name == "variant")
    assert specs([""], variant=list(VARIANTS), k=8, latents=64)
    assert all(repr(name) in repr(variants.type) for name in VARIANTS)


def test_grids_and_saes_are_counted_before_they_are_made(tmp_path):
    with pytest.raises(UnboxError, match="a grid of 1,000,000,000,000 SAEs would take"):
        specs(["a"], k=[1] * 10**6, latents=[10] * 10**6)
    rows = {"a": noise(block="a")}
    with pytest.raises(UnboxError, match=r"training a would take .* of memory; the limit is"):
        train(rows, tmp_path / "out", [Spec("a", latents=10**10)])
    assert not (tmp_path / "out").exists()


def test_memory_is_that_of_the_arrays():
    plan = make_plan([Spec("a", 2, 100), Spec("b", 4, 50)], batch_size=10)
    weights, batch = 4 * (8 * (100 * 16 + 50 * 8) + 2 * 100 * 16), 10 * (16 * 4 + 4 * 24)
    assert plan.memory({"a": 16, "b": 8}) == weights + batch
    by_latents = make_plan([Spec("a", 2, 100)], batch_size=10, share="latents")
    assert by_latents.memory({"a": 16}, 4) == 10 * 4 * 25 * 16 + 10 * (16 * 4 + 2 * 24)


LANE = {"done": 0, "cursors": [{"epoch": 0, "at": 0}]}


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ([], "not a JSON object"),
        ({}, "rounds = None: should be a whole number"),
        ({"rounds": 1, "lanes": {}}, "is of other blocks"),
        ({"rounds": 1, "lanes": {"": {**LANE, "done": -1}}}, r"lanes\.: done = -1: should be at least 0"),
        ({"rounds": 1, "lanes": {"": {**LANE, "cursors": 3}}}, r"cursors\[0\] = 3: should be an object"),
        ({"rounds": 1, "lanes": {"": {**LANE, "cursors": [{"at": 0}]}}}, "the cursor: epoch = None"),
    ],
)
def test_a_checkpoint_that_is_none(tmp_path, place, message):
    run = TrainingRun(make_plan([Spec("", 2, 8)], tokens=100), {"": noise(rows=50)})
    writer = CheckpointWriter(tmp_path, run)
    run.advance()
    writer.write(run)
    next(tmp_path.glob("checkpoint-*/" + STATE)).write_text(json.dumps(place))
    with pytest.raises(UnboxError, match=message):
        restore(latest(tmp_path, [""]), run)


def test_lines_that_are_no_metrics_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for line, message in [
        ("3", "line 1 of .*: 3: should be an object"),
        ('{"sae": 1}', "sae = 1: should be"),
    ]:
        path.write_text(line + "\n")
        with pytest.raises(UnboxError, match=message):
            rewind(path, {})


def test_memory_of_learnt_thresholds_counts_their_slices():
    small, large = (
        make_plan([Spec("", 4, 5120, variant)], batch_size=4096).memory({"": 64})
        for variant in ("topk", "gated")
    )
    assert large - small == 10 * (2**21 + 5120) * 4


def test_what_a_gpu_must_hold_besides_the_weights(monkeypatch):
    """Two pools of 256 MiB of each block's rows, and 8 bytes for each of a slice's 2^28 pre-activations."""
    rows = {block: ArrayRows(np.eye(1280, dtype=np.float32), block) for block in ("mid.0", "up.0.1")}
    plan = make_plan([Spec(block, 32, 131_072) for block in rows], tokens=10**8)
    weights = plan.memory(dict.fromkeys(rows, 1280))
    needed = weights + 2 * 2 * 2**28 + 8 * 2**28
    for total, fits in ((needed, True), (needed - 1, False)):
        card = SimpleNamespace(total_memory=total)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        if fits:
            check_plan(plan, rows, torch.device("cuda"))
        else:
            with pytest.raises(UnboxError, match="of the GPU's"):
                check_plan(plan, rows, torch.device("cuda"))
