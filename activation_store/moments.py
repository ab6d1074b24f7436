"""Running statistics of vectors: mean, variance, count, quantiles of norm and channels; exact under merging.

Mean and sum of squared deviations are merged by the update of Chan, Golub and LeVeque (1979) in float64:
whatever the grouping, results agree to float64 rounding. Norms, and the values of each channel in some rows,
are counted in fixed bins, so their counts merge exactly.
"""

from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from activation_store import compiled_loops
from activation_store.errors import StoreError

#: The norm's bins: 16 per octave from 2^-20 to 2^20; the first also takes what is below, the last the rest.
BINS_PER_OCTAVE, FIRST_OCTAVE, LAST_OCTAVE = 16, -20, 20
BINS = BINS_PER_OCTAVE * (LAST_OCTAVE - FIRST_OCTAVE)

#: A channel's bins: on each side of zero 4 (of equal width) per octave from 2^-12 to 2^8, and one about zero
#: for all below; the outermost also take what is beyond.
CHANNEL_OCTAVES = (-12, 8)
CHANNEL_SIDE = 4 * (CHANNEL_OCTAVES[1] - CHANNEL_OCTAVES[0])
CHANNEL_BINS = 2 * CHANNEL_SIDE + 1

#: Rows of an image, at most, whose channels are counted: evenly spaced ones, others in the next image.
CHANNEL_ROWS = 8

#: Groups (steps x branches), at most, that have their channels counted apart; more are counted together.
CHANNEL_GROUPS = 8


@dataclass(frozen=True)
class Moments:
    """Statistics of `count` vectors of d channels; leading axes (steps, branches) are separate groups."""

    count: int
    """Vectors in each group."""
    mean: np.ndarray
    """(..., d) float64."""
    m2: np.ndarray
    """(..., d) float64: sum of squared deviations from the mean."""
    norms: np.ndarray
    """(..., BINS) int64: how many vectors have their Euclidean norm in each bin."""
    channels: np.ndarray | None = None
    """(..., d, CHANNEL_BINS) uint32: how many values of each channel lie in each bin, in up to `CHANNEL_ROWS`
    rows of each image; (1, 1, d, CHANNEL_BINS) for more than `CHANNEL_GROUPS` groups together. None where it
    was not counted: in stores of version 1."""

    @property
    def variance(self) -> np.ndarray:
        """Population variance per channel, (..., d) float64."""
        return self.m2 / max(self.count, 1)

    @property
    def total_variance(self) -> np.ndarray:
        """E ||x - mean||^2 per group, (...) float64."""
        return self.variance.sum(-1)

    def norm_quantile(self, q: float) -> np.ndarray:
        """The q-quantile of the norms per group, within one bin (4.4 %) of the true one. Shape (...)."""
        cumulative = self.norms.cumsum(-1)
        rank = q * max(self.count, 1)
        index = np.minimum((cumulative < rank).sum(-1), BINS - 1)
        in_bin = np.take_along_axis(self.norms, index[..., None], -1)[..., 0]
        below = np.take_along_axis(cumulative, index[..., None], -1)[..., 0] - in_bin
        part = np.clip((rank - below) / np.maximum(in_bin, 1), 0, 1)
        return 2.0 ** (FIRST_OCTAVE + (index + part) / BINS_PER_OCTAVE)

    def channel_quantile(self, q: float) -> np.ndarray:
        """The q-quantile of each channel per group, (..., d): within one bin of that of the rows counted (a
        quarter of an octave, at most 25 % of the value; or 2^-12). StoreError where nothing was counted.
        """
        if self.channels is None:
            raise StoreError("quantiles of channels were not counted of these rows (a store of version 1, or "
                             "part of the steps, branches or images)")  # fmt: skip
        return _quantile_in_bins(self.channels, q)

    def __add__(self, other: "Moments") -> "Moments":
        """Statistics of both sets together."""
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        m2 = self.m2 + other.m2 + delta**2 * (self.count * other.count / count)
        channels = None
        if self.channels is not None and other.channels is not None:
            channels = self.channels + other.channels
        return Moments(count, mean, m2, self.norms + other.norms, channels)

    def select(self, steps: list[int], branches: list[int]) -> "Moments":
        """One group made of the chosen (step, branch) groups; this one must have exactly these two axes."""
        groups, channels = self.mean.shape[:-1], self.channels
        chosen = [
            Moments(self.count, self.mean[s, b], self.m2[s, b], self.norms[s, b])
            for s in steps
            for b in branches
        ]
        if channels is not None and channels.shape[:-2] == groups:
            channels = channels[steps][:, branches].sum((0, 1), dtype=np.uint32)
        elif channels is not None:  # counted over all groups together
            channels = channels[0, 0] if len(chosen) == np.prod(groups) else None
        return replace(reduce(Moments.__add__, chosen), channels=channels)


def empty(groups: tuple[int, ...], width: int) -> Moments:
    """Statistics of no vectors."""
    zeros = np.zeros((*groups, width))
    channels = np.zeros((*channel_groups(groups), width, CHANNEL_BINS), np.uint32)
    return Moments(0, zeros, zeros, np.zeros((*groups, BINS), np.int64), channels)


def channel_groups(groups: tuple[int, ...]) -> tuple[int, ...]:
    """The groups whose channels are counted apart."""
    return groups if np.prod(groups) <= CHANNEL_GROUPS else (1,) * len(groups)


def moments_of(x: np.ndarray, overwrite: bool = False) -> Moments:
    """Statistics of `x` (..., rows, d) float32 over its rows. `overwrite` lets it use x's memory for its own.

    Two passes over data that fits the cache: deviations are taken from the mean before they are squared, so
    nothing cancels. Within one call sums are in float32: error below 1e-5 of the standard deviation.
    """
    *groups, rows, width = x.shape
    apart = x.reshape(-1, rows, width)
    if compiled_loops.AVAILABLE:
        mean, m2, squares = compiled_loops.moments(np.ascontiguousarray(apart))
    else:
        sums = [_sums(group, overwrite) for group in apart]
        mean, m2, squares = (np.stack(each) for each in zip(*sums, strict=True))
    mean, m2 = (each.reshape(*groups, width).astype(np.float64) for each in (mean, m2))
    return Moments(rows, mean, m2, count_norms(np.sqrt(squares).reshape(*groups, rows)))


def _sums(x: np.ndarray, overwrite: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of `x` (rows, d) float32: mean and sum of squared deviations (d,), squared norms (rows,).

    Rows are added one after another; a norm's squares are folded: the second half onto the first, and so on,
    an odd last one onto the first. So machine code gives the same to the last bit, and shards are the same
    bytes with numba and without."""
    mean = x.sum(0) / np.float32(len(x))
    folded, left = np.square(x), x.shape[1]
    while left > 1:
        half = left // 2
        folded[:, :half] += folded[:, half : 2 * half]
        if left % 2:
            folded[:, 0] += folded[:, left - 1]
        left = half
    squares = folded[:, 0].copy()
    deviation = np.subtract(x, mean, out=x if overwrite else folded)
    return mean, np.square(deviation, out=deviation).sum(0), squares


def count_norms(norms: np.ndarray) -> np.ndarray:
    """Norms (..., rows) -> counts per bin (..., BINS) int64."""
    octaves = np.log2(np.clip(norms, 2.0**FIRST_OCTAVE, 2.0**LAST_OCTAVE)).astype(np.float64) - FIRST_OCTAVE
    index = np.minimum((octaves * BINS_PER_OCTAVE).astype(np.int64), BINS - 1)
    groups = int(np.prod(norms.shape[:-1], dtype=np.int64))
    offset = index.reshape(groups, -1) + BINS * np.arange(groups)[:, None]
    return np.bincount(offset.ravel(), minlength=BINS * groups).reshape(*norms.shape[:-1], BINS)


def count_channels(rows: np.ndarray, counts: np.ndarray, image: int) -> None:
    """Add the channels of some rows of the image of number `image` (steps, branches, rows, d) float32 to
    `counts` (..., d, CHANNEL_BINS), in place.

    A bin is a float32's sign, exponent and two bits of its mantissa.
    """
    some = rows[..., _counted(rows.shape[-2], image), :]
    first = CHANNEL_OCTAVES[0] + 127 << 2
    bits = np.ascontiguousarray(some).view(np.int32)
    groups, width = counts.shape[:-2], rows.shape[-1]
    bits = bits.reshape(int(np.prod(groups)), -1, width)  # groups that are counted together: one
    if compiled_loops.AVAILABLE:
        compiled_loops.count_bins(bits, counts.reshape(-1, width, CHANNEL_BINS), first, CHANNEL_SIDE)
        return
    bins = np.clip(((bits & np.int32(0x7FFFFFFF)) >> 21) - np.int32(first - 1), 0, CHANNEL_SIDE)
    bins = np.where(bits < 0, -bins, bins) + CHANNEL_SIDE
    bins += CHANNEL_BINS * np.arange(width, dtype=np.int32)
    for group, flat in zip(bins, counts.reshape(len(bins), -1), strict=True):  # views: counts is contiguous
        for places in group:
            flat[places] += 1  # a row has each channel once


def channels_counted(groups: tuple[int, ...], rows: int, image: int) -> int:
    """How many values of a channel `count_channels` adds to each group for an image of `rows` rows."""
    some = len(range(rows)[_counted(rows, image)])
    return some if channel_groups(groups) == groups else some * int(np.prod(groups))


def _counted(rows: int, image: int) -> slice:
    stride = max(1, -(-rows // CHANNEL_ROWS))
    return slice(image % stride, None, stride)


def _quantile_in_bins(counts: np.ndarray, q: float) -> np.ndarray:
    """The q-quantile of what is counted in a channel's bins (..., CHANNEL_BINS), spread evenly in each."""
    side = np.arange(CHANNEL_SIDE + 1)
    edges = (1 + side % 4 / 4) * 2.0 ** (CHANNEL_OCTAVES[0] + side // 4)
    edges = np.concatenate([-edges[::-1], edges])
    cumulative = counts.cumsum(-1, dtype=np.int64)
    rank = q * np.maximum(cumulative[..., -1:], 1)
    index = np.minimum((cumulative < rank).sum(-1), CHANNEL_BINS - 1)
    inside = np.take_along_axis(counts, index[..., None], -1)[..., 0].astype(np.int64)
    below = np.take_along_axis(cumulative, index[..., None], -1)[..., 0] - inside
    part = np.clip((rank[..., 0] - below) / np.maximum(inside, 1), 0, 1)
    return edges[index] + part * (edges[index + 1] - edges[index])
