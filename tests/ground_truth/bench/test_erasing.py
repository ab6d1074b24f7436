"""Learned baselines that take a value out: what they do to vectors of planted values."""

import numpy as np
import pytest
import torch

from tests.ground_truth.bench.test_parts import RedEverywhere
from unbox.edit import Edits
from unbox.edits.program import Program
from unbox.ground_truth.bench.erasure_rules import RULES, FactorRecords
from unbox.ground_truth.bench.erasure_settings import ErasureMethod, ErasureSettings
from unbox.ground_truth.bench.learned_change import LEARNED, LearnedChanges
from unbox.shapes import sample_scenes

RED = ("colour", "red")


@pytest.fixture(scope="module")
def learned():
    scenes = [scene for scene in sample_scenes(400, seed=3) if len(scene.objects) == 1]
    rows = RedEverywhere(scenes)
    made = LearnedChanges(None, lambda block: rows, scenes, ("mid.0",), 0)
    before = made.showing("mid.0", ("colour", "blue"), 200)
    red = before + np.array([3.0, 0, 0, 0, 0, 0], np.float32)
    made._paired = lambda value: {"mid.0": (before, red)}  # the runs of captions, which need a model
    return made


@pytest.mark.parametrize("method", LEARNED)
def test_a_learned_baseline_takes_the_value_out_and_leaves_the_rest(learned, method):
    red, others = learned.showing("mid.0", RED, 100), learned.showing("mid.0", ("colour", "blue"), 100)

    def after(vectors, strength=1.0):
        update = torch.from_numpy(vectors)[None, :, None]
        edits = Edits.of(learned.erasing(method, "mid.0", RED)(strength))
        moved = Program(tuple(edits), 6).delta(update, update, 0, "cond").expand_as(update) + update
        return moved[0, :, 0].numpy()

    gap = np.median(red[:, 0]) - np.median(others[:, 0])
    assert gap > 2
    moved = np.median(red[:, 0]) - np.median(after(red)[:, 0])
    assert moved > 0.5 * gap * (0.7 if method == "k-steering" else 1)
    assert np.abs(np.median(after(red)[:, 1:] - red[:, 1:], 0)).max() < 0.35 * moved
    assert np.allclose(after(red, 1e-6), red, atol=1e-4)


def test_what_is_asked_for_is_what_there_is_and_learned_options_are_blocks_by_strengths(learned):
    assert set(RULES) == set(ErasureMethod.__args__) == set(ErasureSettings().methods)
    sae = type("Of", (), {"block": "mid.0"})
    records = [FactorRecords(sae, None, {}, learned), FactorRecords(sae, None, {})]
    found = RULES["linear-probe"](records, RED, ErasureSettings(steered=(1.0, 2.0)))
    assert [each.option for each in found] == ["mid.0, 1", "mid.0, 2"]
    one, two = (np.array(each.edits[0].direction) * each.edits[0].value for each in found)
    np.testing.assert_allclose(2 * one, two, rtol=1e-6)
    assert one[0] * np.sign(found[0].edits[0].direction[0]) < 0
