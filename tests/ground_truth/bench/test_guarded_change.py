"""Arms with fewer artifacts: which strength is chosen, what a swap draws from, what a guard counts."""

import numpy as np
import pytest
import torch

from tests.edits.dictionaries import random_sae
from tests.ground_truth.bench.test_parts import RedEverywhere
from unbox.edits.guard import Guard
from unbox.edits.program import Program
from unbox.ground_truth.bench.bench_inputs import BenchInputs
from unbox.ground_truth.bench.bench_settings import BenchSettings
from unbox.ground_truth.bench.guarded_change import DONORS, GuardedChange, cleanest, swapping
from unbox.ground_truth.bench.learned_change import LearnedChanges
from unbox.ground_truth.bench.mean_maps import MeanMaps
from unbox.ground_truth.bench.methods import dictionaries
from unbox.shapes import sample_scenes

RED = ("colour", "red")


def row(strength, success, artifacts, collateral=0.0):
    return {"strength": strength, "success": success, "artifacts": artifacts, "collateral": collateral}


def test_the_cleanest_is_within_three_points_and_of_equals_the_weakest():
    tried = [row(1, 0.90, 0.0), row(2, 0.97, 0.1), row(3, 1.0, 0.1), row(4, 1.0, 0.3)]
    assert cleanest(tried)["strength"] == 2
    assert cleanest(tried[:1] + tried[2:])["strength"] == 3
    harmful = [row(1, 0.5, 0.2), row(2, 1.0, 0.0, collateral=0.5)]
    assert cleanest(harmful)["strength"] == 1
    assert cleanest(harmful[1:])["strength"] == 2  # none is tolerable


@pytest.fixture(scope="module")
def bench():
    scenes = [scene for scene in sample_scenes(300, seed=3) if len(scene.objects) == 1]
    rows, sae = RedEverywhere(scenes), random_sae("mid.0", latents=12, k=3)
    held = {"mid.0": dictionaries(sae, rows.updates.reshape(-1, 6)[:2000])}
    learned = LearnedChanges(None, lambda block: rows, scenes, ("mid.0",), 0)
    maps = MeanMaps(held["mid.0"], rows, scenes)
    settings = BenchSettings(methods=("swap",))
    return BenchInputs(
        None, {"mid.0": sae}, settings, None, None, scenes, held, lambda block: maps, learned, None, False
    )


def test_a_swap_puts_in_recorded_vectors_of_places_that_show_the_value(bench):
    donors = bench.learned.showing("mid.0", RED, DONORS)
    others = bench.learned.showing("mid.0", ("colour", "blue"), 64)
    assert donors.shape == (DONORS, 6)
    assert np.median(donors[:, 0]) > 2 > 0.5 > np.median(others[:, 0])  # planted: channel 0 is red
    blue = next(s for s in bench.scenes if s.factors()["colour"] == "blue")
    (edit,) = swapping(bench, ["mid.0"], 12, RED, blue, 1.0)
    assert edit.op == "swap"
    assert edit.where is not None
    update = torch.from_numpy(bench.learned.rows("mid.0").read(bench.scenes.index(blue))[0])
    delta = Program((edit,), 6).delta(update, update, 0, "cond")[0]
    moved = (delta != 0).any(-1)
    inside = torch.from_numpy(edit.where.on(8, 8) > 0)
    assert moved.any()
    assert not (moved & ~inside).any()
    whole = moved & torch.from_numpy(edit.where.on(8, 8) == 1)
    known = {tuple(vector) for vector in donors.astype(np.float16).astype(np.float32).round(2).tolist()}
    put = {tuple(vector) for vector in (update[0] + delta)[whole].numpy().round(2).tolist()}
    assert put
    assert all(min(np.abs(np.subtract(one, each)).max() for each in known) < 0.03 for one in put)
    red = next(s for s in bench.scenes if s.factors()["colour"] == "red")
    assert not len(swapping(bench, ["mid.0"], 12, RED, red, 1.0))


def test_each_measurement_counts_with_a_guard_of_its_own():
    guard = Guard({"mid.0": (0.0, 1.0)})
    change = GuardedChange(lambda scene, strength: None, (1.0,), guard)
    update, delta = torch.ones(1, 2, 2, 6) / 6, torch.ones(1, 2, 2, 6)
    (_, first), (_, second) = change.recipe(1.0), change.recipe(1.0)
    first.delta("mid.0", update, delta)
    assert first.report() == {"mid.0": 1.0}
    assert second.report() == guard.report() == {}
    assert GuardedChange(lambda scene, strength: None, (1.0,)).recipe(1.0)[1] is None
