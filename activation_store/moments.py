"""Running statistics of vectors: mean, variance, count, quantiles of the norm; exact under merging.

Mean and sum of squared deviations are merged by the update of Chan, Golub and LeVeque (1979) in float64:
whatever the grouping, results agree to float64 rounding. Norms are counted in fixed bins, so their counts
merge exactly.
"""

from dataclasses import dataclass
from functools import reduce

import numpy as np

#: The norm's bins: 16 per octave from 2^-20 to 2^20; the first also takes what is below, the last the rest.
BINS_PER_OCTAVE, FIRST_OCTAVE, LAST_OCTAVE = 16, -20, 20
BINS = BINS_PER_OCTAVE * (LAST_OCTAVE - FIRST_OCTAVE)


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

    def __add__(self, other: "Moments") -> "Moments":
        """Statistics of both sets together."""
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        m2 = self.m2 + other.m2 + delta**2 * (self.count * other.count / count)
        return Moments(count, mean, m2, self.norms + other.norms)

    def select(self, steps: list[int], branches: list[int]) -> "Moments":
        """One group made of the chosen (step, branch) groups; this one must have exactly these two axes."""
        groups = [
            Moments(self.count, self.mean[s, b], self.m2[s, b], self.norms[s, b])
            for s in steps
            for b in branches
        ]
        return reduce(Moments.__add__, groups)


def empty(groups: tuple[int, ...], width: int) -> Moments:
    """Statistics of no vectors."""
    zeros = np.zeros((*groups, width))
    return Moments(0, zeros, zeros, np.zeros((*groups, BINS), np.int64))


def moments_of(x: np.ndarray, overwrite: bool = False) -> Moments:
    """Statistics of `x` (..., rows, d) float32 over its rows. `overwrite` lets it use x's memory for its own.

    Two passes over data that fits the cache: deviations are taken from the mean before they are squared, so
    nothing cancels. Within one call sums are in float32: error below 1e-5 of the standard deviation.
    """
    rows = x.shape[-2]
    mean = x.mean(-2)
    norms = np.sqrt(np.einsum("...d,...d->...", x, x))
    deviation = np.subtract(x, mean[..., None, :], out=x if overwrite else None)
    m2 = np.einsum("...rd,...rd->...d", deviation, deviation)
    return Moments(rows, mean.astype(np.float64), m2.astype(np.float64), count_norms(norms))


def count_norms(norms: np.ndarray) -> np.ndarray:
    """Norms (..., rows) -> counts per bin (..., BINS) int64."""
    octaves = np.log2(np.clip(norms, 2.0**FIRST_OCTAVE, 2.0**LAST_OCTAVE)).astype(np.float64) - FIRST_OCTAVE
    index = np.minimum((octaves * BINS_PER_OCTAVE).astype(np.int64), BINS - 1)
    groups = int(np.prod(norms.shape[:-1], dtype=np.int64))
    offset = index.reshape(groups, -1) + BINS * np.arange(groups)[:, None]
    return np.bincount(offset.ravel(), minlength=BINS * groups).reshape(*norms.shape[:-1], BINS)
