"""The few images of each feature with the largest keys, kept while images stream by.

One structure serves every kind of example: the key is the peak activation (top examples) or a random number
that belongs to the pair (random examples, and those of an interval).
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class Best:
    """For each of n rows the `size` images with the largest keys; a slot never filled has image -1."""

    key: np.ndarray
    """(n, size) float64, -inf where empty."""
    image: np.ndarray
    """(n, size) int64."""
    peak: np.ndarray
    """(n, size) float32: the feature's largest activation in the image."""
    maps: np.ndarray
    """(n, size, cells) uint8: where it is active, in 255ths of the peak."""

    @classmethod
    def empty(cls, rows: int, size: int, cells: int) -> "Best":
        """Nothing seen yet. `cells` 0 keeps no maps."""
        return cls(
            key=np.full((rows, size), -np.inf),
            image=np.full((rows, size), -1, np.int64),
            peak=np.zeros((rows, size), np.float32),
            maps=np.zeros((rows, size, cells), np.uint8),
        )

    def offer(self, row: np.ndarray, key: np.ndarray, image: np.ndarray, peak: np.ndarray) -> np.ndarray:
        """Take what is better than what is there; (m,) int64 slots, -1 where a candidate was not taken.

        The r-th best candidate of a row replaces its r-th worst entry if it is better: both lists are
        sorted, so this keeps exactly the best of their union. Maps of taken slots are cleared.
        """
        slots = np.full(len(row), -1, np.int64)
        new = np.flatnonzero(key > self.key.min(1)[row])  # few, once many images have been seen
        order = new[np.lexsort((-key[new], row[new]))]
        rows, first = np.unique(row[order], return_index=True)
        rank = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
        order, rank = order[rank < self.key.shape[1]], rank[rank < self.key.shape[1]]
        worst = np.argsort(self.key[rows], axis=1, kind="stable")
        slot = worst[np.searchsorted(rows, row[order]), rank]
        better = key[order] > self.key[row[order], slot]
        order, slot = order[better], slot[better]
        where = (row[order], slot)
        self.key[where], self.image[where], self.peak[where] = key[order], image[order], peak[order]
        if self.maps.shape[2]:
            self.maps[where] = 0
        slots[order] = slot
        return slots

    def sorted(self) -> "Best":
        """The same with each row's entries in descending order of key."""
        order = np.argsort(-self.key, axis=1, kind="stable")
        key, image, peak = (np.take_along_axis(a, order, 1) for a in (self.key, self.image, self.peak))
        return Best(key, image, peak, np.take_along_axis(self.maps, order[..., None], 1))


def pair_noise(row: np.ndarray, image: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each (feature, image), the same however images are grouped (SplitMix64)."""
    with np.errstate(over="ignore"):
        z = row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + image.astype(np.uint64)
        z += np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return (z >> np.uint64(11)) / float(1 << 53)
