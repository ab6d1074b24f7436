"""Two loops in machine code (numba) for reading many rows; each does what NumPy does beside it, in one pass
and without Python's lock. The store needs no numba: where it is not installed, NumPy does it.
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
