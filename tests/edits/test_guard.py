"""Guards bound norms where an edit acted, leave the rest alone, and count."""

import numpy as np
import pytest
import torch

from unbox.edit import Edits
from unbox.edits import Guard, guarded, norm_limits
from unbox.errors import UnboxError

UPDATE = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))
DELTA = torch.zeros_like(UPDATE)
DELTA[:, :2] = 20 * torch.randn(2, 2, 4, 6, generator=torch.Generator().manual_seed(1))


def test_clip_brings_norms_to_the_limit_and_keeps_the_direction():
    guard = Guard({"mid.0": (0.5, 4.0)})
    moved = UPDATE + guard.delta("mid.0", UPDATE, DELTA)
    free = UPDATE + DELTA
    assert torch.allclose(moved[:, :2].norm(dim=-1), free[:, :2].norm(dim=-1).clamp(0.5, 4.0), rtol=1e-5)
    assert torch.allclose(torch.cosine_similarity(moved, free, dim=-1), torch.ones(()), atol=1e-5)
    assert torch.equal(moved[:, 2:], UPDATE[:, 2:])
    outside = (free[:, :2].norm(dim=-1) > 4.0) | (free[:, :2].norm(dim=-1) < 0.5)
    assert guard.report() == {"mid.0": float(outside.float().mean())}


def test_rescale_gives_each_position_its_norm_back():
    guard = Guard({"mid.0": (0.0, 100.0)}, mode="rescale")
    moved = UPDATE + guard.delta("mid.0", UPDATE, DELTA)
    assert torch.allclose(moved.norm(dim=-1), UPDATE.norm(dim=-1), rtol=1e-5)
    assert guard.report() == {"mid.0": 0.0}


def test_inside_the_limits_nothing_changes():
    guard = Guard({"mid.0": (0.0, 1e6)})
    assert torch.equal(guard.delta("mid.0", UPDATE, DELTA), DELTA)
    assert torch.equal(guard.delta("up.0.1", UPDATE, DELTA), DELTA)


def test_limits_come_from_the_recorded_norms():
    class Rows:
        def __len__(self):
            return 100

        def sample(self, count, seed):
            return np.arange(count, dtype=np.float32)[:, None]

    assert norm_limits(Rows()) == (0.0, 99.0)
    assert norm_limits(Rows(), (0.25, 0.75)) == (24.75, 74.25)

    for wrong in (
        {"quantiles": (0.5, 1.5)},
        {"quantiles": (1, 0)},
        {"quantiles": 0.5},
        {"count": 0},
        {"seed": -1},
    ):
        with pytest.raises(UnboxError, match=f"norm_limits: {next(iter(wrong))}"):
            norm_limits(Rows(), **wrong)


def test_no_limit_is_infinite():
    guard = Guard({"mid.0": (0, np.inf)})
    assert torch.equal(guard.delta("mid.0", UPDATE, DELTA), DELTA)


@pytest.mark.parametrize(
    ("limits", "mode", "message"),
    [
        ({"mid.0": (2, 1)}, "clip", r"limits\['mid.0'\] = \(2.*, 1.*\): should be \(lowest, highest\)"),
        ({"mid.0": (-1, 1)}, "clip", r"limits\['mid.0'\]\[0\] = -1: should be at least 0"),
        ({"mid.0": (0, np.nan)}, "clip", r"limits\['mid.0'\]\[1\] = nan: should be a finite number"),
        ({"mid.0": (0, 1, 2)}, "clip", r"limits\['mid.0'\] = \(0, 1, 2\): should be two values"),
        ({"mid.0": None}, "clip", r"limits\['mid.0'\] = None: should be two values"),
        ({"attic": (0, 1)}, "clip", "limits.* = 'attic': should be the name of a block"),
        ([1], "clip", r"limits = \[1\]: should be"),
        ({"mid.0": (0, 1)}, "hard", "mode = 'hard': should be one of 'clip' or 'rescale'"),
    ],
)
def test_what_is_no_guard_is_refused(limits, mode, message):
    with pytest.raises(UnboxError, match=f"^Guard: {message}"):
        Guard(limits, mode)


def test_edits_and_their_guard_are_what_they_say():
    guard = Guard({"mid.0": (0, 1)})
    assert guarded(Edits(), guard).guard is guard  # whose counts its owner reads
    with pytest.raises(UnboxError, match=r"^EditHook: guard = 3: should be an instance of Guard"):
        guarded(Edits(), 3)
    with pytest.raises(UnboxError, match=r"^edits = 'add': should be edits"):
        guarded("add", guard)
