"""Guards by channel and by whitened norm: what they leave is inside, and what they did is counted."""

import numpy as np
import pytest
import torch

from unbox.edits.channel_guard import (
    ChannelGuard,
    ChannelLimits,
    WhitenedLimits,
    channel_limits,
    whitened_limits,
)
from unbox.errors import UnboxError

DRAW = torch.Generator().manual_seed(0)
UPDATE = torch.randn(2, 4, 4, 6, generator=DRAW)
DELTA = torch.zeros_like(UPDATE)
DELTA[:, :2, :, :3] = 4 * torch.randn(2, 2, 4, 3, generator=DRAW)
LIMITS = ChannelLimits(torch.full((6,), -1.5), torch.linspace(1, 2, 6))


def guard(mode="clip", **limits):
    return ChannelGuard({}, mode, **limits)


def test_clip_puts_each_edited_channel_inside_its_limits():
    own = guard(channels={"mid.0": LIMITS})
    moved = (UPDATE + own.delta("mid.0", UPDATE, DELTA)).numpy()
    free = (UPDATE + DELTA).numpy()
    expected = np.where(DELTA.numpy() != 0, np.clip(free, LIMITS.low.numpy(), LIMITS.high.numpy()), free)
    np.testing.assert_allclose(moved, expected, atol=1e-6)
    outside = (DELTA.numpy() != 0) & ((free < LIMITS.low.numpy()) | (free > LIMITS.high.numpy()))
    edited = (DELTA.numpy() != 0).any(-1)
    assert own.report() == {"mid.0 channels": pytest.approx(outside.any(-1).sum() / edited.sum())}
    assert torch.equal(own.delta("up.0.1", UPDATE, DELTA), DELTA)


def test_rescale_makes_the_edit_smaller_until_every_channel_is_inside():
    found = guard("rescale", channels={"mid.0": LIMITS}).delta("mid.0", UPDATE, DELTA).numpy()
    before, free, delta = UPDATE.numpy(), (UPDATE + DELTA).numpy(), DELTA.numpy()
    lowest, highest = LIMITS.low.numpy(), LIMITS.high.numpy()
    low, high = np.minimum(lowest, before), np.maximum(highest, before)
    assert ((before + found <= high + 1e-5) & (before + found >= low - 1e-5)).all()
    for place in np.ndindex(2, 4, 4):
        mine = found[place]
        left = (free[place] > highest) | (free[place] < lowest)
        if not left[delta[place] != 0].any():
            assert np.array_equal(mine, delta[place])
        else:  # along the edit, and as far as a channel goes
            share = np.divide(mine, delta[place], out=np.zeros(6), where=delta[place] != 0)[delta[place] != 0]
            assert np.ptp(share) < 1e-4
            edge = np.where(delta[place] > 0, high[place], low[place])
            assert np.isclose(before[place] + mine, edge, atol=1e-4)[delta[place] != 0].any() or share[0] == 1


class Recorded:
    """Rows with correlated channels."""

    def __init__(self, count=4000):
        mix = np.random.default_rng(1).standard_normal((6, 6))
        self.data = np.random.default_rng(2).standard_normal((count, 6)) @ mix + 3

    def __len__(self):
        return len(self.data)

    def sample(self, count, seed):
        return self.data[:count].astype(np.float32)


def test_the_whitened_norm_is_mahalanobis_and_is_kept_inside():
    rows = Recorded()
    limits = whitened_limits(rows, (0.0, 0.95))
    data = rows.data.astype(np.float32).astype(np.float64)
    covariance = np.cov(data.T) + 0.1 * data.var(0).mean() * np.eye(6)
    offset = data - data.mean(0)
    norms = np.sqrt(np.einsum("ni,ij,nj->n", offset, np.linalg.inv(covariance), offset))
    assert (limits.low, limits.high) == pytest.approx(tuple(np.quantile(norms, (0.0, 0.95))), rel=1e-4)
    update = torch.from_numpy(data[:32].astype(np.float32)).reshape(2, 4, 4, 6)
    delta = torch.zeros_like(update)
    delta[:, :2] = 30
    for mode in ("clip", "rescale"):
        own = guard(mode, whitened={"mid.0": limits})
        moved = update + own.delta("mid.0", update, delta)
        assert (limits.norm(moved[:, :2]) <= limits.high * 1.001).all()
        assert torch.equal(moved[:, 2:], update[:, 2:])
        assert own.report() == {"mid.0 whitened": 1.0}
    wanted = limits.norm(update[:, :2]).clamp(limits.low, limits.high)
    assert torch.allclose(limits.norm(moved[:, :2]), wanted, rtol=1e-3)


def test_limits_of_channels_come_from_the_stores_statistics():
    from activation_store.moments import count_channels, moments_of

    rows = Recorded(512).data.astype(np.float32)
    moments = moments_of(rows.reshape(1, 1, -1, 6))
    counts = np.zeros((1, 1, 6, 161), np.uint32)

    class Own:
        """One group whose channels are all counted."""

        def __init__(self):
            from dataclasses import replace

            for image in range(64):
                count_channels(rows[8 * image : 8 * image + 8].reshape(1, 1, -1, 6), counts, image)
            self.moments = replace(moments, channels=counts)

    limits = channel_limits(Own(), (0.01, 0.99))
    exact = np.quantile(rows, (0.01, 0.99), axis=0)
    for found, wanted in zip((limits.low, limits.high), exact, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=0.3, atol=0.05)


def test_all_limits_act_and_each_is_reported():
    limits = WhitenedLimits(torch.zeros(6), torch.eye(6), 0.0, 2.0)
    own = ChannelGuard({"mid.0": (0.0, 1.0)}, channels={"mid.0": LIMITS}, whitened={"mid.0": limits})
    moved = UPDATE + own.delta("mid.0", UPDATE, DELTA)
    edited = (DELTA != 0).any(-1)
    assert (moved.norm(dim=-1)[edited] <= 1.0001).all()
    assert set(own.report()) == {"mid.0", "mid.0 channels", "mid.0 whitened"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: guard(channels=3), "ChannelGuard: channels = 3: should be ChannelLimits by block"),
        (
            lambda: guard(whitened={"mid.0": 3}),
            "ChannelGuard: whitened = .*: should be Whitened",
        ),
        (lambda: guard("hard"), "ChannelGuard: mode = 'hard': should be one of"),
        (lambda: channel_limits(Recorded(), (1, 0)), "channel_limits: quantiles"),
        (
            lambda: whitened_limits(Recorded(5)),
            "whitened_limits: count = 5: should be more rows",
        ),
        (lambda: whitened_limits(Recorded(), count=0), "whitened_limits: count = 0"),
    ],
)
def test_what_is_no_guard_is_refused(make, message):
    with pytest.raises(UnboxError, match=f"^{message}"):
        make()
