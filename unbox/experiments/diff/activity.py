"""How active features are in the same pictures of two systems, and how far that could be chance.

An image is the independent unit: a feature's activity in it is its mean value over steps and places. Of two
systems that drew it from one prompt and seed, d = other - first. Over N images

    t = mean(d) / (s / sqrt(N)),    s^2 = sum (d - mean d)^2 / (N - 1)

with its interval by Student's t. Thousands of features are looked at, so each has two corrected values: q, of
Benjamini and Hochberg (1995), the share of false ones among all that are listed down to it; and the
family-wise p of Westfall and Young's max-T (1993): the two systems of each image are exchanged at random,
and p is how often the largest |t| of all features comes up to this one's. Sums alone are kept, of a size that
does not grow with the images.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from activation_store import Rows
from unbox.errors import UnboxError
from unbox.sae import SAE
from unbox.sae.evaluation_sums import ROWS_READ
from unbox.statistics import LEVEL

#: Images of each feature that are kept for the report.
EXAMPLES = 4


@torch.no_grad()
def image_activity(sae: SAE, updates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean value, and share of places where it is active, of each latent in each image and step.

    updates (images, steps, branches, y, x, d) -> two (images, steps, n), float64.
    """
    images, steps = updates.shape[:2]
    codes = sae.encode(
        torch.from_numpy(updates).reshape(images * steps, -1, updates.shape[-1]).to(sae.device)
    )
    places, values = codes.values.shape[1], codes.values.float().flatten(1)
    indices = codes.indices.flatten(1)

    def pooled(numbers: Tensor) -> np.ndarray:
        sums = numbers.new_zeros(len(numbers), sae.latents).scatter_add_(1, indices, numbers)
        return (sums / places).cpu().double().numpy().reshape(images, steps, -1)

    return pooled(values), pooled((values > 0).float())


def signs(numbers: Sequence[int], draws: int, seed: int) -> np.ndarray:
    """(draws, images) of -1 and 1, each column by its image's number alone."""
    drawn = [np.random.default_rng([seed, number]).integers(0, 2, draws, np.int8) for number in numbers]
    return 2.0 * np.stack(drawn, 1) - 1


@dataclass(frozen=True, eq=False)
class Changes:
    """What each of n features did in another system; arrays (n,)."""

    images: int
    first: np.ndarray
    """Mean activity in the first system."""
    other: np.ndarray
    change: np.ndarray
    """other - first."""
    low: np.ndarray
    """Of the 95 % interval of the change."""
    high: np.ndarray
    t: np.ndarray
    q: np.ndarray
    """Benjamini and Hochberg's."""
    p_family: np.ndarray
    """Of the largest |t| of all features, by exchanged systems."""
    order: np.ndarray
    """Features by |t|, the largest first."""

    @property
    def ranks(self) -> np.ndarray:
        """(n,) of each feature, from 1."""
        return ranks_of(self.order)


def ranks_of(order: np.ndarray) -> np.ndarray:
    """The place of each number in an order, from 1."""
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks


class PairedActivity:
    """Sums over images of the features' activity in two systems."""

    def __init__(self, latents: int, flips: int, seed: int = 0) -> None:
        self.images, self.seed = 0, seed
        self.first, self.other, self.squares = np.zeros((3, latents))
        self.flipped = np.zeros((flips, latents))
        self.most = np.zeros((latents, 0))
        self.examples = np.zeros((latents, 0), np.int64)

    def add(self, numbers: Sequence[int], first: np.ndarray, other: np.ndarray) -> None:
        """Add images by their numbers, with each feature's activity in both systems (images, n)."""
        d = other - first
        self.images += len(d)
        self.first += first.sum(0)
        self.other += other.sum(0)
        self.squares += np.square(d).sum(0)
        self.flipped += signs(numbers, len(self.flipped), self.seed) @ d
        most = np.concatenate([self.most, np.abs(d).T], 1)
        images = np.concatenate([self.examples, np.broadcast_to(np.asarray(numbers), d.T.shape)], 1)
        best = np.argsort(-most, 1, kind="stable")[:, :EXAMPLES]
        self.most, self.examples = (np.take_along_axis(each, best, 1) for each in (most, images))

    def changes(self) -> Changes:
        """The figures. Raises UnboxError for fewer than two images."""
        import scipy.stats

        n = self.images
        if n < 2:
            raise UnboxError(f"{n} images were compared: an interval takes two at least")
        total = self.other - self.first
        mean, deviation = total / n, np.sqrt(_variance(total, self.squares, n) / n)
        t = _ratio(mean, deviation)
        reach = float(scipy.stats.t.ppf((1 + LEVEL) / 2, n - 1)) * deviation
        p = 2 * scipy.stats.t.sf(np.abs(t), n - 1)
        by_chance = np.abs(
            _ratio(self.flipped / n, np.sqrt(_variance(self.flipped, self.squares, n) / n))
        ).max(1)
        above = len(by_chance) - np.searchsorted(np.sort(by_chance), np.abs(t), side="left")
        return Changes(
            images=n,
            first=self.first / n,
            other=self.other / n,
            change=mean,
            low=mean - reach,
            high=mean + reach,
            t=t,
            q=np.asarray(scipy.stats.false_discovery_control(p)),
            p_family=(above + 1) / (len(by_chance) + 1),
            order=np.argsort(-np.abs(t), kind="stable"),
        )


@dataclass(frozen=True, eq=False)
class SplitChanges:
    """One system's images split at random, compared as if the halves were of two systems."""

    t: np.ndarray
    """(splits, n), Welch's."""
    q: np.ndarray

    @property
    def ranks(self) -> np.ndarray:
        """(splits, n) of each feature by |t|, from 1."""
        return np.stack([ranks_of(np.argsort(-np.abs(t), kind="stable")) for t in self.t])


class SplitActivity:
    """Sums over one system's images in each half of random splits."""

    def __init__(self, latents: int, splits: int, seed: int = 0) -> None:
        self.seed = seed
        self.counts = np.zeros((2, splits, 1))
        self.sums, self.squares = np.zeros((2, 2, splits, latents))

    def add(self, numbers: Sequence[int], activity: np.ndarray) -> None:
        """Add images by their numbers, with each feature's activity (images, n)."""
        upper = (signs(numbers, self.counts.shape[1], self.seed + 1) + 1) / 2
        for half, drawn in enumerate((1 - upper, upper)):
            self.counts[half] += drawn.sum(1, keepdims=True)
            self.sums[half] += drawn @ activity
            self.squares[half] += drawn @ np.square(activity)

    def changes(self) -> SplitChanges:
        """Welch's t of every feature in every split; 0 where a half has fewer than two images."""
        import scipy.stats

        n = np.maximum(self.counts, 1)
        variance = [_variance(s, q, c) / c for s, q, c in zip(self.sums, self.squares, n, strict=True)]
        means = self.sums / n
        few = (self.counts < 2).any(0)
        t = np.where(few, 0.0, _ratio(means[1] - means[0], np.sqrt(variance[0] + variance[1])))
        # Halves are of nearly one size and variance: the degrees of freedom are those of the pooled t.
        p = 2 * scipy.stats.t.sf(np.abs(t), np.maximum(self.counts.sum(0) - 2, 1))
        return SplitChanges(t, np.asarray(scipy.stats.false_discovery_control(p, axis=1)))


def image_groups_of(
    rows: Mapping[str, Rows], images: Sequence[int]
) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
    """Numbers of images, and their updates in each system (images, steps, branches, y, x, d): as many at a
    time as a bounded number of rows holds."""
    per = max(int(np.prod(each.shape[1:-1])) for each in rows.values())
    together = max(1, ROWS_READ // per)
    for start in range(0, len(images), together):
        some = range(start, min(start + together, len(images)))
        yield [images[i] for i in some], {name: each.read_images(list(some)) for name, each in rows.items()}


def _variance(sums: np.ndarray, squares: np.ndarray, n: float | np.ndarray) -> np.ndarray:
    """Unbiased variance of numbers by their sums; what rounding leaves of no variance at all is 0."""
    left = squares - np.square(sums) / n
    return np.where(left > 1e-12 * squares, left, 0.0) / np.maximum(n - 1, 1)


def _ratio(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """mean / deviation; 0 / 0 is 0. A change that is the same in every image has no deviation: its t is as
    large as doubles allow without being infinite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = mean / deviation
    return np.where(
        mean == 0, 0.0, np.clip(np.nan_to_num(found, nan=0.0, posinf=1e9, neginf=-1e9), -1e9, 1e9)
    )
