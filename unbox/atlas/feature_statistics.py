"""Everything that one pass over a block's codes counts, as plain arrays that can be saved and restored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import numpy as np

from unbox.atlas.atlas_plan import MAP_SIDE, AtlasPlan
from unbox.atlas.top_images import Best, pair_noise

#: Names of the arrays of sampled places.
PLACES = ("place_row", "place_feature")


class Entries(NamedTuple):
    """Active places of some images, one element each, (E,): a sparse view of codes."""

    feature: np.ndarray
    value: np.ndarray
    image: np.ndarray
    step: np.ndarray
    branch: np.ndarray
    place: np.ndarray
    """Index into what is kept of the image's grid, y * width + x."""
    cell: np.ndarray
    """Index into the grid of maps."""


class Pairs(NamedTuple):
    """Each feature in each image in which it is active, (m,), and the pair of every entry."""

    feature: np.ndarray
    image: np.ndarray
    peak: np.ndarray
    first: np.ndarray
    last: np.ndarray
    of_entry: np.ndarray


@dataclass(frozen=True)
class Grid:
    """The axes of a block's codes in a store."""

    steps: int
    branches: int
    height: int
    width: int
    kept: int
    """Places kept of each image: height * width unless the store samples positions."""

    @cached_property
    def factor(self) -> int:
        """Positions pooled into a cell, along each axis."""
        return -(-max(self.height, self.width) // MAP_SIDE)

    @property
    def map_shape(self) -> tuple[int, int]:
        """(y, x) of the maps."""
        return -(-self.height // self.factor), -(-self.width // self.factor)

    @property
    def cells(self) -> int:
        return self.map_shape[0] * self.map_shape[1]

    def cell(self, position: np.ndarray) -> np.ndarray:
        """Cells of flat positions on the block's grid."""
        y, x = np.divmod(position, self.width)
        return (y // self.factor) * self.map_shape[1] + x // self.factor


class GrowingPairs:
    """Pairs of int32 in two arrays that double when they are full: each pair is moved once in the mean."""

    def __init__(self, first: np.ndarray | None = None, second: np.ndarray | None = None) -> None:
        self._arrays = [np.zeros(0, np.int32) if each is None else each for each in (first, second)]
        self._count = len(self._arrays[0])

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """(P,) int32 each; views."""
        first, second = self._arrays
        return first[: self._count], second[: self._count]

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Append pairs."""
        end = self._count + len(first)
        if end > len(self._arrays[0]):
            grown = [np.empty(max(end, 2 * self._count, 1024), np.int32) for _ in self._arrays]
            for new, old in zip(grown, self.pairs, strict=True):
                new[: self._count] = old
            self._arrays = grown
        for array, values in zip(self._arrays, (first, second), strict=True):
            array[self._count : end] = values
        self._count = end


@dataclass
class Tally:
    """Counts of an SAE's n latents. Arrays only; `images` says how many images of the store are in."""

    images: np.ndarray
    """() int64."""
    active: np.ndarray
    """(n,) places where active; float64, as `total` and `square`, the sums of values and of their squares."""
    total: np.ndarray
    square: np.ndarray
    largest: np.ndarray
    """(n,) float32."""
    pictures: np.ndarray
    """(n,) images where active anywhere."""
    histogram: np.ndarray
    """(n, bins) values between 0 and the feature's scale; the last bin holds all above."""
    by_step: np.ndarray
    """(n, steps) places where active."""
    by_branch: np.ndarray
    """(n, branches)."""
    by_cell: np.ndarray
    """(n, cells)."""
    first: np.ndarray
    """(n, steps) images by the first step where active."""
    last: np.ndarray
    """(n, steps) images by the last step."""
    both: np.ndarray
    """(n, steps - 1) places where active at a step and the next."""
    probe_peak: np.ndarray
    """(n, probes) float16: peak in each probe image."""
    places: GrowingPairs
    """Sampled place of each active latent, ascending, and the latent: a sparse matrix."""

    @classmethod
    def empty(cls, latents: int, grid: Grid, plan: AtlasPlan, probes: int) -> "Tally":
        """Nothing seen yet."""

        def count(*shape: int) -> np.ndarray:
            return np.zeros((latents, *shape), np.int64)

        return cls(
            images=np.zeros((), np.int64),
            active=count(),
            total=np.zeros(latents),
            square=np.zeros(latents),
            largest=np.zeros(latents, np.float32),
            pictures=count(),
            histogram=count(plan.bins),
            by_step=count(grid.steps),
            by_branch=count(grid.branches),
            by_cell=count(grid.cells),
            first=count(grid.steps),
            last=count(grid.steps),
            both=count(grid.steps - 1),
            probe_peak=np.zeros((latents, probes), np.float16),
            places=GrowingPairs(),
        )

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "Tally":
        """Inverse of `arrays`."""
        counts = {name: array for name, array in arrays.items() if name not in PLACES}
        return cls(**counts, places=GrowingPairs(*(arrays[name] for name in PLACES)))

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by its name; of the places `place_row` and `place_feature`, (P,) int32."""
        counts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "places"}
        return counts | dict(zip(PLACES, self.places.pairs, strict=True))

    @property
    def latents(self) -> int:
        return len(self.active)

    def count(self, e: Entries, scale: np.ndarray) -> None:
        """Count entries by feature, value, step, branch and cell."""
        n = self.latents
        self.active += np.bincount(e.feature, minlength=n)
        self.total += np.bincount(e.feature, e.value, n)
        self.square += np.bincount(e.feature, np.square(e.value, dtype=np.float64), n)
        np.maximum.at(self.largest, e.feature, e.value)
        bins = self.histogram.shape[1]
        height = np.minimum(e.value / scale[e.feature] * bins, bins - 1).astype(np.int64)
        _count_in(self.histogram, e.feature, height)
        _count_in(self.by_step, e.feature, e.step)
        _count_in(self.by_branch, e.feature, e.branch)
        _count_in(self.by_cell, e.feature, e.cell)

    def count_lives(self, e: Entries, pairs: Pairs) -> None:
        """Count first and last steps by image, and places where a feature is active in two steps running."""
        n, steps = self.by_step.shape
        self.pictures += np.bincount(pairs.feature, minlength=n)
        _count_in(self.first, pairs.feature, pairs.first)
        _count_in(self.last, pairs.feature, pairs.last)
        where = (e.image * (int(e.branch.max(initial=0)) + 1) + e.branch) * (int(e.place.max(initial=0)) + 1)
        key = (where + e.place) * n + e.feature
        at = [key[e.step == step] for step in range(steps)]
        for step in range(steps - 1):
            both = np.intersect1d(at[step], at[step + 1], assume_unique=True)
            self.both[:, step] += np.bincount(both % n, minlength=n)


@dataclass
class Examples:
    """The chosen images of each feature, by kind."""

    top: Best
    random: Best
    intervals: Best
    """Rows are feature * intervals + interval."""
    captions: Best
    """More top images, none of them a probe, without maps."""

    @classmethod
    def empty(cls, latents: int, cells: int, plan: AtlasPlan) -> "Examples":
        """Nothing seen yet."""
        return cls(
            top=Best.empty(latents, plan.top, cells),
            random=Best.empty(latents, plan.random, cells),
            intervals=Best.empty(latents * plan.intervals, plan.per_interval, cells),
            captions=Best.empty(latents, plan.caption_images, 0),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array, named `kind/part`."""
        return {
            f"{kind.name}/{part.name}": getattr(getattr(self, kind.name), part.name)
            for kind in fields(self)
            for part in fields(Best)
        }

    def offer(self, e: Entries, pairs: Pairs, scale: np.ndarray, probe: np.ndarray, plan: AtlasPlan) -> None:
        """Offer the pairs of some images to every kind. `probe` (m,) bool: the pair's image is a probe."""
        noise = pair_noise(pairs.feature, pairs.image, plan.seed)
        level = np.minimum(pairs.peak / scale[pairs.feature] * plan.intervals, plan.intervals - 1)
        _offer(self.top, pairs.feature, pairs.peak, e, pairs)
        _offer(self.random, pairs.feature, noise, e, pairs)
        _offer(self.intervals, pairs.feature * plan.intervals + level.astype(np.int64), noise, e, pairs)
        shown = ~probe
        self.captions.offer(
            pairs.feature[shown], pairs.peak[shown].astype(float), pairs.image[shown], pairs.peak[shown]
        )


def pass_bytes(latents: int, grid: Grid, plan: AtlasPlan, images: int, k: int) -> int:
    """Bytes that a pass over `images` for an SAE of `k` active latents takes at most: `Tally`, `Examples` and
    a sorted copy of these, sampled places (of which arrays that grow are there twice, and once as large),
    decoys and relations."""
    slots = plan.top + plan.random + plan.intervals * plan.per_interval
    examples = 2 * (slots * (20 + grid.cells) + plan.caption_images * 20)
    counts = 2 + plan.bins + 4 * grid.steps + grid.branches + grid.cells
    others = plan.decoys * 8 + 3 * plan.related * 12 + min(plan.probes, images) * 2 + 20
    places = min(64 * images, plan.places + images) * k * 8 * 3
    return latents * (examples + counts * 8 + others) + places


def _count_in(table: np.ndarray, row: np.ndarray, column: np.ndarray) -> None:
    """Add one to a table's cell for each (row, column)."""
    cells = row * table.shape[1] + column
    if len(cells) < table.size // 4:  # few entries in a large table: it is not gone through for them
        np.add.at(table.reshape(-1), cells, 1)
    else:
        table += np.bincount(cells, minlength=table.size).reshape(table.shape)


def _offer(best: Best, row: np.ndarray, key: np.ndarray, e: Entries, pairs: Pairs) -> None:
    slots = best.offer(row, key.astype(np.float64), pairs.image, pairs.peak)
    slot = slots[pairs.of_entry]
    taken = slot >= 0
    pair = pairs.of_entry[taken]
    level = np.rint(255 * e.value[taken] / pairs.peak[pair]).astype(np.uint8)
    np.maximum.at(best.maps, (row[pair], slot[taken], e.cell[taken]), level)


def pairs_of(e: Entries, latents: int) -> Pairs:
    """Group entries by image and feature."""
    every = e.image * latents + e.feature
    order = np.argsort(every, kind="stable")
    sorted_keys = every[order]
    begins = np.append(True, sorted_keys[1:] != sorted_keys[:-1])[: len(every)]
    starts, of_entry = np.flatnonzero(begins), np.empty(len(every), np.int64)
    of_entry[order] = np.cumsum(begins) - 1
    keys = sorted_keys[starts]
    if len(keys) == 0:
        nothing = np.zeros(0, np.int64)
        return Pairs(nothing, nothing, np.zeros(0, np.float32), nothing, nothing, nothing)
    return Pairs(
        feature=keys % latents,
        image=keys // latents,
        peak=np.maximum.reduceat(e.value[order], starts),
        first=np.minimum.reduceat(e.step[order], starts),
        last=np.maximum.reduceat(e.step[order], starts),
        of_entry=of_entry,
    )


def summary(
    arrays: Mapping[str, np.ndarray], steps: Sequence[int], places: int, images: int
) -> dict[str, np.ndarray]:
    """Each feature's statistics, (n,) each, from the arrays of a `Tally` (here or in a file, read by `[()]`).

    A statistic of the feature page is a row here, a column of `database.STATISTICS` and a field of
    `feature_records.Facts`. `places`: of all images; `steps`: the store's.
    """
    active, total, square, by_step = (arrays[name][()] for name in ("active", "total", "square", "by_step"))
    mean, numbers, fires = total / np.maximum(active, 1), np.array(steps), by_step > 0
    return {
        "density": active / places,
        "pictures": arrays["pictures"][()] / images,
        "mean": mean,
        "std": np.sqrt(np.maximum(square / np.maximum(active, 1) - mean**2, 0)),
        "largest": arrays["largest"][()].astype(float),
        "first_step": numbers[fires.argmax(1)],
        "last_step": numbers[::-1][fires[:, ::-1].argmax(1)],
        "peak_step": numbers[by_step.argmax(1)],
    }
