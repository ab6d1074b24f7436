"""Choices of steps, blocks and strengths on made-up effects, where the answer is known."""

import numpy as np
import pytest

from unbox.edit import Direction, Edits
from unbox.experiments.calibration import LARGEST, calibrate
from unbox.experiments.commitment import POINTS, choose_blocks, choose_steps, commitment

SHARES = {"mid.0": 0.7, "up.0.0": 0.25, "up.0.1": 0.05}


def edits_of(*blocks):
    return Edits(tuple(Direction(block, [1.0, 0.0]).add(1.0) for block in blocks))


class World:
    """Each step, in each block, has a share of the effect; pictures differ by noise that is always the
    same."""

    def __init__(self, by_step):
        self.by_step, self.asked = np.array(by_step), []

    def __call__(self, edits):
        self.asked.append(edits)
        total = 0.0
        for edit in edits:
            first, last = edit.steps or (0, len(self.by_step))
            total += SHARES[edit.block] * edit.value * self.by_step[first:last].sum()
        return total + np.random.default_rng(0).normal(0, 1e-3, 12)


def test_the_window_is_where_the_effect_is():
    world = World([0, 0, 0.5, 0.5, 0, 0])
    curves = commitment(world, edits_of("mid.0"), 6)
    assert [round(e.mean / 0.7, 2) for e in curves.begins.values()] == [1, 1, 0.5, 0, 0]
    assert [round(e.mean / 0.7, 2) for e in curves.ends.values()] == [0, 0, 0.5, 1, 1]
    assert choose_steps(world, edits_of("mid.0"), curves) == (2, 4)
    assert not curves.blocks
    assert {row["curve"] for row in curves.rows} == {"whole", "begins", "ends"}
    assert all(row["effect_low"] <= row["effect"] <= row["effect_high"] for row in curves.rows)


@pytest.mark.parametrize(
    ("by_step", "window"),
    [([0.95, 0.05, 0, 0], (0, 1)), ([0, 0, 0.05, 0.95], (3, 4)), ([0.25] * 4, (0, 4))],
)
def test_windows_at_either_end(by_step, window):
    world = World(by_step)
    assert choose_steps(world, edits_of("mid.0"), commitment(world, edits_of("mid.0"), 4)) == window


def test_a_window_that_only_works_open_is_not_closed():
    """Either half makes it: beginning late and ending early are each enough, both together are nothing."""

    def either(edits):
        first, last = edits[0].steps or (0, 10)
        return np.full(
            5, float((first <= 4 and last >= 8) or (last >= 3 and first == 0) or (last == 10 and first <= 6))
        )

    edits = edits_of("mid.0")
    assert choose_steps(either, edits, commitment(either, edits, 10)) == (0, 3)


def test_costs_do_not_grow_with_the_steps():
    world = World(np.full(50, 0.02))
    curves = commitment(world, edits_of("mid.0"), 50)
    assert len(world.asked) == 1 + 2 * POINTS
    assert (min(curves.begins), max(curves.begins)) == (1, 49)


def test_blocks_are_taken_until_enough_is_there():
    world = World([1.0])
    edits = edits_of(*SHARES)
    curves = commitment(world, edits, 1)
    assert not curves.begins
    assert choose_blocks(world, edits, curves) == ("mid.0", "up.0.0")
    assert choose_blocks(world, edits, curves, kept=0.6) == ("mid.0",)
    assert choose_blocks(world, edits, curves, kept=1.0) == tuple(SHARES)


@pytest.mark.parametrize("needed", [0.1, 0.3, 1.7, 9.0, 50.0])
def test_the_smallest_strength_that_reaches(needed):
    def measured(edits):
        return float(edits[0].value >= needed), 0.0

    found = calibrate(measured, edits_of("mid.0"), 0.8)
    assert found.reached
    assert needed <= found.strength <= needed + max(needed, 0.25) / 16
    assert len(found.tried) <= 9 + 5


def test_what_spoils_is_not_taken():
    """It reaches at 3, and spoils beyond 2."""
    found = calibrate(lambda edits: (edits[0].value / 3, float(edits[0].value > 2)), edits_of("mid.0"), 1.0)
    assert not found.reached
    assert found.strength == pytest.approx(2, abs=0.07)
    never = calibrate(lambda edits: (0.0, 0.0), edits_of("mid.0"), 0.5)
    assert not never.reached
    assert max(each.strength for each in never.tried) == LARGEST
    assert calibrate(lambda edits: (1.0, 1.0), edits_of("mid.0"), 0.5).strength == 0
