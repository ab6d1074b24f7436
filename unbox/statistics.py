"""The statistics of every figure, by scipy: intervals (bootstrap, Wilson), the area under the ROC curve."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import scipy  # its parts are loaded when first used: `scipy.stats` takes half a second

#: The level of all intervals.
LEVEL = 0.95

#: Resamples of a bootstrap, and numbers drawn at a time: 128 MB, however many units there are.
RESAMPLES, DRAWN_AT_ONCE = 2000, 2**24


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """The three numbers as cells of a table: NAME, NAME_low, NAME_high."""
        return {name: self.mean, f"{name}_low": self.low, f"{name}_high": self.high}

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: np.ndarray, level: float = LEVEL, draws: int = RESAMPLES, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean of `values` over their first axis, the independent units.

    Values of one unit (the seeds of a prompt, say) are averaged first: resampling prompts, not images, keeps
    the interval honest where images of one prompt resemble each other. NaNs are left out; without a finite
    unit all three numbers are NaN.
    """
    by_unit = np.asarray(values, float)
    inner = tuple(range(1, by_unit.ndim))
    with np.errstate(invalid="ignore", divide="ignore"):
        units = np.nansum(by_unit, inner) / np.count_nonzero(~np.isnan(by_unit), inner)
    units = units[np.isfinite(units)]
    if len(units) == 0:
        return Interval(np.nan, np.nan, np.nan)
    low, high = bootstrap_of_sums(units[:, None], lambda s: s[..., 0] / len(units), level, draws, seed)
    return Interval(float(units.mean()), low, high)


def bootstrap_of_sums(
    units: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    level: float = LEVEL,
    draws: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a figure of sums over independent units, all of a unit drawn together.

    units (n, columns); `statistic` maps sums over units (..., columns) to the figure (...). One unit alone
    has an interval of no width.
    """
    if len(units) == 1:
        only = float(statistic(units.sum(0)))
        return only, only

    def resampled(drawn: np.ndarray, axis: int) -> np.ndarray:
        offsets = len(units) * np.arange(drawn.size // len(units)).reshape(*drawn.shape[:-1], 1)
        times = np.bincount((drawn + offsets).ravel(), minlength=drawn.size).reshape(drawn.shape)
        return statistic(times @ units)

    interval = scipy.stats.bootstrap(
        (np.arange(len(units)),),
        resampled,
        n_resamples=draws,
        batch=max(1, DRAWN_AT_ONCE // len(units)),
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


class StreamingBootstrap:
    """Percentile interval of a figure of sums over units that come by once, in memory that does not grow with
    their number: each unit is drawn Poisson(1) times into each resample (Chamandy et al., "Estimating
    uncertainty for massive data streams", 2012), by its number alone, so that parts can be summed apart.
    """

    def __init__(self, columns: int, draws: int = RESAMPLES, seed: int = 0) -> None:
        self.sums, self.seed, self.units = np.zeros((draws, columns + 1)), seed, 0

    def add(self, numbers: Iterable[int], units: np.ndarray) -> None:
        """Add units (n, columns); each has a number of its own."""
        times = np.empty((len(units), len(self.sums)))
        for row, number in zip(times, numbers, strict=True):
            row[:] = np.random.default_rng([self.seed, int(number)]).poisson(1.0, len(row))
        self.sums += times.T @ np.column_stack([units, np.ones(len(units))])
        self.units += len(units)

    def interval(
        self, statistic: Callable[[np.ndarray], np.ndarray], level: float = LEVEL
    ) -> tuple[float, float]:
        """The interval; `statistic` maps sums over units (..., columns) to the figure (...)."""
        found = statistic(self.sums[self.sums[:, -1] > 0, :-1])  # a resample without any unit says nothing
        low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def wilson(hits: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927); unlike a bootstrap's, sound at 0 and n. Of nothing (0, 1)."""
    if n == 0:
        return 0.0, 1.0
    interval = scipy.stats.binomtest(hits, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def auroc(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of every feature for every label, ties counted half.

    scores (..., images, features), labels bool (..., images, labels) -> (..., labels, features). NaN where a
    label has no positive or no negative image. Mann-Whitney's U over the product of the counts.
    """
    wanted = np.swapaxes(np.asarray(labels, np.float64), -1, -2)
    positive = wanted.sum(-1, keepdims=True)
    negative = wanted.shape[-1] - positive
    columns = [scores[..., i : i + 512] for i in range(0, scores.shape[-1], 512)]  # ranks are 8 bytes each
    ranks = np.concatenate([wanted @ scipy.stats.rankdata(part, axis=-2) for part in columns], -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (ranks - positive * (positive + 1) / 2) / (positive * negative)
