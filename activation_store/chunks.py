"""Chunks of a dataset read and written whole, with their checksum, past HDF5's own pipeline of filters.

The file and what is read are the same to the last byte, and HDF5 keeps the metadata (and checks it). Its own
way takes half as long again and more (it copies twice and sums `fletcher32` word by word), and lets one
thread in at a time.
"""

import os
from math import prod
from typing import Any

import numpy as np

#: Words of a row in the table that `fletcher32` sums along both sides.
_ROW = 1024
_MODULUS = 65535


def read_chunk(dataset: Any, coordinate: tuple[int, ...], out: np.ndarray) -> None:
    """Read the chunk that begins at `coordinate` into `out`, contiguous, of the chunk's shape and type.

    The dataset (`h5py.Dataset`) has `fletcher32` as its one filter. Raises OSError where the chunk is not
    there, not whole, or not what was written.
    """
    place = dataset.id.get_chunk_info_by_coord(coordinate)
    if place.byte_offset is None or place.filter_mask or place.size != out.nbytes + 4:
        raise OSError(f"{dataset.name} has no whole, checksummed chunk at {coordinate}")
    written = bytearray(4)
    data = out.reshape(-1).view(np.uint8)
    if _read(dataset.file.id.get_vfd_handle(), [data, written], place.byte_offset) != place.size:
        raise OSError(f"{dataset.name} ends within the chunk at {coordinate}")
    if fletcher32(data) != int.from_bytes(written, "little"):
        raise OSError(f"the checksum of {dataset.name} does not match its data at {coordinate}")


def write_chunks(dataset: Any, array: np.ndarray) -> None:
    """Write all of `array` (samples, steps, branches, ...) to a dataset of its shape and type.

    The dataset has chunks of (some samples, 1, 1, all the rest) and `fletcher32` as its one filter; chunks
    go to the file in the order in which HDF5 would write them.
    """
    together, (_, steps, branches) = dataset.chunks[0], array.shape[:3]
    chunk = np.zeros(prod(dataset.chunks) * array.itemsize + 4, np.uint8)
    body = chunk[:-4].view(array.dtype).reshape(dataset.chunks)
    for start in range(0, len(array), together):
        some = array[start : start + together]
        body[len(some) :] = 0
        for step, branch in np.ndindex(steps, branches):
            body[: len(some), 0, 0] = some[:, step, branch]
            chunk[-4:] = np.frombuffer(fletcher32(chunk[:-4]).to_bytes(4, "little"), np.uint8)
            rest = (0,) * (array.ndim - 3)
            dataset.id.write_direct_chunk((start, step, branch, *rest), chunk)


def fletcher32(data: np.ndarray) -> int:
    """HDF5's checksum of bytes (uint8, 1-D): Fletcher's, of 16-bit big-endian words, modulo 65535.

    The second sum weighs word i of n by n - i. In a table of words that is a sum over rows and one over
    columns. Words are taken as little-endian: swapping a word's bytes multiplies it by 256, modulo 65535.
    """
    if len(data) % 2:
        data = np.append(data, np.uint8(0))
    words = data.view("<u2")
    count, rows = len(words), len(words) // _ROW
    table, rest = words[: rows * _ROW].reshape(rows, _ROW), words[rows * _ROW :].astype(np.uint64)
    kind = np.uint32 if rows <= 1 << 16 else np.uint64  # the narrower is twice as fast, and holds 2^16 words
    by_row, by_column = (table.sum(axis, dtype=kind).astype(np.uint64) % _MODULUS for axis in (1, 0))
    first = int(by_row.sum()) + int(rest.sum())
    second = _weighted(count - _ROW * np.arange(rows), by_row) + _weighted(-np.arange(_ROW), by_column)
    second += _weighted(len(rest) - np.arange(len(rest)), rest)
    return _half(second, data) << 16 | _half(first, data)


def _weighted(weights: np.ndarray, sums: np.ndarray) -> int:
    return int((weights % _MODULUS * sums.astype(np.int64)).sum())


def _half(total: int, data: np.ndarray) -> int:
    """HDF5 writes a sum of no remainder as 65535, unless every word is zero."""
    return total * 256 % _MODULUS or (_MODULUS if data.any() else 0)


def _read(descriptor: int, buffers: list[Any], offset: int) -> int:
    """Bytes read from `offset` on: all that the buffers hold, or fewer at the end of the file."""
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    done = 0
    while views and (count := os.preadv(descriptor, views, offset + done)):
        done += count
        while views and count >= len(views[0]):
            count -= len(views.pop(0))
        if views:
            views[0] = views[0][count:]
    return done
