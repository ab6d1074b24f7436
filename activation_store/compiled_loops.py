"""Loops in machine code (numba) for writing and reading many rows; each does what NumPy does beside it, to
the last bit, in fewer passes and without Python's lock. The store needs no numba: where it is not installed,
NumPy does it.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

#: Whether loops can be compiled here.
AVAILABLE = find_spec("numba") is not None

#: Words of a row of `sums`: place times word, summed over a row, fits 32 bits.
_ROW = 256
_MODULUS = 65535


def sums(words: np.ndarray) -> tuple[int, int]:
    """Fletcher's two sums of n words (n,) uint16, modulo 65535: of word i, and of (n - i) times word i."""
    first, second = _compiled(_sums)(words)
    return int(first), int(second)


def take_half(values: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """Some rows (m,) of float16 `values` (n, d) to `out` (m, d) float32. See
    `number_formats._from_half` for the arithmetic.
    """
    _compiled(_take_half)(values.view(np.int16), rows, out, out.view(np.int32))


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of `x` (groups, rows, d) float32, contiguous: mean and sum of squared deviations (groups, d), squared
    norms (groups, rows), float32. See `moments._sums`."""
    groups, rows, width = x.shape
    mean, m2 = np.zeros((2, groups, width), np.float32)
    squares = np.empty((groups, rows), np.float32)
    _compiled(_moments)(x, mean, m2, squares)
    return mean, m2, squares


def count_bins(bits: np.ndarray, counts: np.ndarray, first: int, side: int) -> None:
    """Count float32s, given as their `bits` (groups, rows, d) int32, in the bins of `counts` (groups, d,
    2 side + 1) uint32. See `moments.count_channels`."""
    _compiled(_count_bins)(bits, counts, np.int32(first), np.int32(side))


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    from activation_store.loop_compiler import compiled

    return compiled()(function)


def _sums(words: np.ndarray) -> tuple[np.int64, np.int64]:
    count = len(words)
    first, second = np.int64(0), np.int64(0)
    for base in range(0, count, _ROW):
        row = words[base : base + _ROW]
        plain, weighted = np.uint32(0), np.uint32(0)
        for i in range(len(row)):
            word = np.uint32(row[i])
            plain += word
            weighted += np.uint32(np.uint32(i) * word)
        first = (first + np.int64(plain)) % _MODULUS
        behind = np.int64((count - base) % _MODULUS)
        second = (second + behind * np.int64(plain) - np.int64(weighted)) % _MODULUS
    return first, second


def _take_half(values: np.ndarray, rows: np.ndarray, out: np.ndarray, bits: np.ndarray) -> None:
    mask, scale = np.int32(-0x70002000), np.float32(2.0**112)
    for r in range(len(rows)):
        row, raised, to = values[rows[r]], bits[r], out[r]
        for i in range(len(row)):
            raised[i] = np.int32(np.int32(row[i]) << np.int32(13)) & mask
        for i in range(len(to)):
            to[i] *= scale


def _moments(x: np.ndarray, mean: np.ndarray, m2: np.ndarray, squares: np.ndarray) -> None:
    groups, rows, width = x.shape
    folded = np.empty(width, np.float32)
    for g in range(groups):
        total, deviations = mean[g], m2[g]
        for r in range(rows):
            row = x[g, r]
            for i in range(width):
                total[i] += row[i]
            for i in range(width):
                folded[i] = row[i] * row[i]
            left = width
            while left > 1:
                half = left // 2
                for i in range(half):
                    folded[i] += folded[half + i]
                if left % 2:
                    folded[0] += folded[left - 1]
                left = half
            squares[g, r] = folded[0]
        for i in range(width):
            total[i] /= np.float32(rows)
        for r in range(rows):
            row = x[g, r]
            for i in range(width):
                deviation = row[i] - total[i]
                deviations[i] += deviation * deviation


def _count_bins(bits: np.ndarray, counts: np.ndarray, first: np.int32, side: np.int32) -> None:
    groups, rows, width = bits.shape
    for g in range(groups):
        for r in range(rows):
            for i in range(width):
                one = bits[g, r, i]
                place = ((one & np.int32(0x7FFFFFFF)) >> np.int32(21)) - first + np.int32(1)
                place = min(max(place, np.int32(0)), side)
                counts[g, i, side - place if one < 0 else side + place] += np.uint32(1)
