"""Edits at a strength, by what they do to an update."""

import numpy as np
import pytest
import torch

from tests.edits.dictionaries import random_sae
from unbox.edit import Block, Direction, Edits
from unbox.edits.program import Program
from unbox.edits.strength import at_strength, of_blocks, within_steps
from unbox.errors import UnboxError

SAE = random_sae("mid.0", width=6, latents=12, k=3)
UPDATE = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 4, 4, 6)).astype(np.float32))
FEATURE = SAE.feature(3)


def after(edits, step=0):
    delta = Program(tuple(Edits.of(edits)), 6).delta(UPDATE, UPDATE, step, "cond")
    return UPDATE.numpy() if delta is None else (UPDATE + delta).numpy()


@pytest.mark.parametrize(
    "edit",
    [
        FEATURE.add(4.0),
        FEATURE.scale(-3.0),
        FEATURE.ablate(),
        SAE.feature((1, 2, 3)).swap(0.8),
        Direction("mid.0", [1.0, 0, 0, 0, 2, 0]).scale(5.0),
        Block("mid.0").scale(0.2),
        Block("mid.0").reconstruct(SAE),
    ],
    ids=lambda edit: f"{edit.subject} {edit.op}",
)
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 2.0])
def test_the_change_grows_in_a_straight_line(edit, strength):
    whole, before = after(edit), UPDATE.numpy()
    found = after(at_strength(edit, strength))
    np.testing.assert_allclose(found, before + strength * (whole - before), atol=2e-5)
    if strength == 0:
        assert np.array_equal(found, before)


def test_curves_over_steps_are_scaled_point_by_point():
    (edit,) = at_strength(FEATURE.scale([1.0, 3.0, 0.0], steps=(0, 3)), 0.5)
    assert edit.value == (1.0, 2.0, 0.5)


@pytest.mark.parametrize("edit", [FEATURE.set(2.0), FEATURE.replace(2.0)])
def test_what_leaves_nothing_of_the_update_has_no_strength(edit):
    with pytest.raises(UnboxError, match="has no strength"):
        at_strength(edit, 0.5)


def test_windows_of_steps_and_blocks():
    edits = FEATURE.add(1.0) + FEATURE.add(2.0, steps=(1, 3)) + Block("up.0.0").scale(0.5, steps=(0, 1))
    found = within_steps(edits, 1, 2)
    assert [(e.block, e.steps) for e in found] == [("mid.0", (1, 2)), ("mid.0", (1, 2))]
    assert [e.steps for e in within_steps(edits, 0, 4)] == [(0, 4), (1, 3), (0, 1)]
    for step in range(4):
        expected = after(edits, step) if 1 <= step < 2 else UPDATE.numpy()
        assert np.array_equal(after(Edits(tuple(e for e in found if e.block == "mid.0")), step), expected)
    assert of_blocks(edits, ("up.0.0",)).blocks == ("up.0.0",)
