"""What a batch's updates go through on their way from the device."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from activation_store import Schema
from unbox.capture.buffers import STAGES, Buffers
from unbox.errors import UnboxError
from unbox.models.clock import Moment
from unbox.site import Activation, Site


class Device(Buffers):
    """Stands for a device whose copies arrive when their event is waited for, and not before."""

    on_the_way = 0
    most = 0

    def _staged(self, rows):
        return True

    def _to_pinned(self, rows):
        self.on_the_way += 1
        self.most = max(self.most, self.on_the_way)
        late = torch.full_like(rows, torch.nan)
        self.copies = [*getattr(self, "copies", []), (late, rows.clone())]
        return late

    def _event(self, device):
        copies, self.copies = self.copies, []

        def synchronize():
            for late, rows in copies:
                late.copy_(rows)
            self.on_the_way -= len(copies)

        return SimpleNamespace(synchronize=synchronize)


SCHEMA = Schema({"a": (2, 2, 3), "b": (1, 1, 2)}, (0, 1, 3), ("cond", "uncond"), "float32")


def forward(buffers, step, value, images=(0, 1), branches=("uncond", "cond")):
    """One UNet forward; block a's update is `value` + image + branch / 2."""
    rows = [(image, branch) for branch in branches for image in images]
    moment = Moment(step, 0.0, tuple(b for _, b in rows), np.array([i for i, _ in rows]))
    made = torch.tensor([value + image + 0.5 * (branch == "uncond") for image, branch in rows])
    for block, (y, x, channels) in SCHEMA.blocks.items():
        values = made[:, None, None, None].expand(len(rows), y, x, channels)
        buffers.fill(Activation(Site(block, 0), "update"), moment, values.to)


@pytest.mark.parametrize("kind", [Buffers, Device])
def test_steps_come_in_any_order_twice_and_branch_after_branch(kind):
    buffers = kind(SCHEMA, [5, 6])
    forward(buffers, 0, 10)
    forward(buffers, 1, 20)
    forward(buffers, 1, 21)  # a second visit: the last counts
    forward(buffers, 2, 99)  # not kept
    forward(buffers, 3, 30, branches=("cond",))
    forward(buffers, 3, 30, branches=("uncond",))
    buffers.close()
    rows = buffers.arrays()["a"]
    truth = np.array([[[v + i, v + i + 0.5] for v in (10, 21, 30)] for i in range(2)])
    assert np.array_equal(rows[..., 0, 0, 0], truth)
    assert np.array_equal(rows, np.broadcast_to(truth[..., None, None, None], rows.shape))
    if kind is Device:
        assert buffers.on_the_way == 0
        assert buffers.most <= STAGES * len(SCHEMA.blocks) * len(SCHEMA.branches)


def test_a_step_that_came_twice_hides_none_that_never_came():
    buffers = Buffers(SCHEMA, [5, 6])
    for step in (0, 1, 1):
        forward(buffers, step, 1)
    with pytest.raises(UnboxError, match="did not all occur at a, b"):
        buffers.arrays()


def test_an_image_that_never_came_is_missed():
    buffers = Buffers(SCHEMA, [5, 6])
    for step in SCHEMA.steps:
        forward(buffers, step, 1, images=(0,))
    with pytest.raises(UnboxError, match="did not all occur"):
        buffers.arrays()
