"""Chunks of a dataset read and written whole, with their checksum, past HDF5's own pipeline of filters.

The file and what is read are the same to the last byte, and HDF5 keeps the metadata (and checks it). Its own
way takes half as long again and more (it copies twice and sums `fletcher32` word by word), and lets one
thread in at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Self

import h5py
import numpy as np

from activation_store import compiled_loops
from activation_store.file_reader import FileReader

#: Words of a row in the table that `fletcher32` sums along both sides.
_ROW = 1024
_MODULUS = 65535


@dataclass(frozen=True)
class ChunkIndex:
    """Where the chunks of a dataset lie in its file: asked of HDF5 once, and then read without it.

    A few million chunks are as many numbers; opening the dataset for each would take longer than reading it.
    """

    name: str
    chunk: tuple[int, ...]
    """Shape of a chunk."""
    bytes: int
    """Of a chunk, its checksum among them."""
    offsets: np.ndarray
    """int64, an axis for each of the dataset's: a chunk's first byte in the file, -1 where there is none."""

    @classmethod
    def of(cls, dataset: h5py.Dataset) -> Self:
        """Those of an `h5py.Dataset` whose one filter is `fletcher32`."""
        chunk, shape = dataset.chunks, dataset.shape
        size = prod(chunk) * dataset.dtype.itemsize + 4
        offsets = np.full([-(-n // c) for n, c in zip(shape, chunk, strict=True)], -1, np.int64)

        def put(place: h5py.h5d.StoreInfo) -> None:
            if not place.filter_mask and place.size == size:  # else it is not whole: as if it were not there
                index = tuple(at // c for at, c in zip(place.chunk_offset, chunk, strict=True))
                offsets[index] = place.byte_offset

        dataset.id.chunk_iter(put)
        return cls(dataset.name, chunk, size, offsets)

    def read(self, reader: FileReader, index: tuple[int, ...], out: np.ndarray) -> None:
        """Read the chunk at `index` (in chunks) into `out`, contiguous, of its shape and type.

        Raises OSError where the chunk is not there, not whole, or not what was written.
        """
        offset = int(self.offsets[index])
        if offset < 0 or out.nbytes + 4 != self.bytes:
            raise OSError(f"{self.name} has no whole, checksummed chunk at {index}")
        data, written = out.reshape(-1).view(np.uint8), np.empty(4, np.uint8)
        if reader.read([data, written], offset) != self.bytes:
            raise OSError(f"{self.name} ends within the chunk at {index}")
        if fletcher32(data) != int.from_bytes(written.tobytes(), "little"):
            raise OSError(f"the checksum of {self.name} does not match its data at {index}")


#: A shard's file, open for reading, and the chunks of its datasets by name.
ShardChunks = tuple[FileReader, Mapping[str, ChunkIndex]]


def write_chunk(dataset: h5py.Dataset, at: tuple[int, ...], chunk: np.ndarray) -> None:
    """Write one whole chunk, its bytes and 4 more for the checksum (uint8), at `at` (in elements).

    `fletcher32` is the dataset's one filter.
    """
    chunk[-4:] = np.frombuffer(fletcher32(chunk[:-4]).to_bytes(4, "little"), np.uint8)
    dataset.id.write_direct_chunk(at, chunk)


def fletcher32(data: np.ndarray) -> int:
    """HDF5's checksum of bytes (uint8, 1-D): Fletcher's, of 16-bit big-endian words, modulo 65535.

    The second sum weighs word i of n by n - i. In a table of words that is a sum over rows and one over
    columns. Words are taken as little-endian: swapping a word's bytes multiplies it by 256, modulo 65535.
    """
    if len(data) % 2:
        data = np.append(data, np.uint8(0))
    words = data.view("<u2")
    if compiled_loops.AVAILABLE:
        first, second = compiled_loops.sums(words)
        return _half(second, data) << 16 | _half(first, data)
    rows = len(words) // _ROW
    table, rest = words[: rows * _ROW].reshape(rows, _ROW), words[rows * _ROW :]
    kind = np.uint32 if rows <= 1 << 16 else np.uint64  # the narrower is twice as fast, and holds 2^16 words
    by_row, by_column = (table.sum(axis, dtype=kind) % _MODULUS for axis in (1, 0))
    of_rows, of_columns, of_rest = _weights(len(words))
    last = rest.astype(np.int64)
    first = int(by_row.sum(dtype=np.int64)) + int(last.sum())
    second = int(of_rows @ by_row.astype(np.int64)) + int(of_columns @ by_column.astype(np.int64))
    second += int(of_rest @ last)
    return _half(second, data) << 16 | _half(first, data)


@lru_cache(64)
def _weights(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the second sum weighs rows, columns and the words left over by, modulo 65535, int64."""
    rows = count // _ROW
    weights = count - _ROW * np.arange(rows), -np.arange(_ROW), count - np.arange(rows * _ROW, count)
    of_rows, of_columns, of_rest = (some.astype(np.int64) % _MODULUS for some in weights)
    return of_rows, of_columns, of_rest


def _half(total: int, data: np.ndarray) -> int:
    """HDF5 writes a sum of no remainder as 65535, unless every word is zero."""
    return total * 256 % _MODULUS or (_MODULUS if data.any() else 0)
