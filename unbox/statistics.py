"""Intervals by bootstrap over prompts and seeds."""

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: np.ndarray, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean of `values` over their first axis, the independent units.

    Values of one unit (the seeds of a prompt, say) are averaged first: resampling prompts, not images, keeps
    the interval honest where images of one prompt resemble each other. NaNs are left out.
    """
    values = np.asarray(values, float)
    units = values if values.ndim == 1 else np.nanmean(values.reshape(len(values), -1), 1)
    units = units[np.isfinite(units)]
    if len(units) == 0:
        return Interval(np.nan, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    means = units[rng.integers(len(units), size=(draws, len(units)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(units.mean()), float(low), float(high))
