"""The rows of one block: filters, one image's updates, samples, training batches, statistics."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import reduce
from itertools import groupby
from math import prod
from typing import Protocol, TypeVar

import h5py
import numpy as np

from activation_store.batches import POOL_BYTES, Batches, Cursor, Pool
from activation_store.chunks import ShardChunks
from activation_store.errors import StoreError
from activation_store.files import canonical, digest
from activation_store.manifest import Entry
from activation_store.moments import Moments, empty, moments_of
from activation_store.number_formats import NUMBER_FORMATS, decode
from activation_store.schema import Schema
from activation_store.shard import chunk_samples

#: A step or a branch.
Name = TypeVar("Name", int, str)

#: Threads that fill a pool: some wait for the disk while others sum.
READERS = 4

#: Pools (two at most) that nobody reads any more. New memory in their place would cost more than reading.
_SPARE: list[Pool] = []


class ShardedStore(Protocol):
    """What rows ask of the store that they are of; `Store` answers."""

    schema: Schema
    entries: tuple[Entry, ...]
    offsets: np.ndarray

    def __len__(self) -> int: ...
    @property
    def digest(self) -> str: ...
    def shard_of(self, i: int) -> tuple[int, int]: ...
    def moments(self, block: str) -> Moments: ...
    def shard(self, number: int) -> AbstractContextManager[h5py.File]: ...
    def chunks(self, number: int, once: bool = False) -> AbstractContextManager[ShardChunks]: ...


@dataclass(frozen=True)
class Rows:
    """Updates of one block in a store: one row (a vector of `width`) per image, step, branch and position."""

    store: ShardedStore
    block: str
    _steps: tuple[int, ...]
    _branches: tuple[int, ...]
    _samples: tuple[int, ...] | None
    """Chosen images, ascending; None for all."""

    @property
    def width(self) -> int:
        """Channels d of a vector."""
        return self.store.schema.blocks[self.block][2]

    @property
    def steps(self) -> tuple[int, ...]:
        """The scheduler's step indices that these rows are of."""
        return tuple(self.store.schema.steps[i] for i in self._steps)

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that these rows are of."""
        return tuple(self.store.schema.branches[i] for i in self._branches)

    @property
    def samples(self) -> Sequence[int]:
        """The store's images that these rows are of."""
        return range(len(self.store)) if self._samples is None else self._samples

    @property
    def shape(self) -> tuple[int, int, int, int, int, int]:
        """(samples, steps, branches, y, x, channels)."""
        y, x = self.store.schema.grid(self.block)
        return (len(self.samples), len(self._steps), len(self._branches), y, x, self.width)

    def __len__(self) -> int:
        """Number of vectors."""
        return prod(self.shape[:-1])

    def filter(
        self,
        *,
        steps: int | Iterable[int] | None = None,
        branches: str | Iterable[str] | None = None,
        samples: Iterable[int] | slice | None = None,
    ) -> "Rows":
        """The rows of some steps (the scheduler's indices), branches and images (numbers in the store).

        Raises StoreError for a step, branch or image that these rows do not have, naming those that exist.
        """
        chosen = self
        if steps is not None:
            wanted = {steps} if isinstance(steps, int) else set(steps)
            chosen = replace(chosen, _steps=_choose("step", wanted, self.steps, self._steps))
        if branches is not None:
            names = {branches} if isinstance(branches, str) else set(branches)
            chosen = replace(chosen, _branches=_choose("branch", names, self.branches, self._branches))
        if samples is not None:
            have = self.samples
            some = set(have[samples]) if isinstance(samples, slice) else {int(i) for i in samples}
            if beyond := sorted(some - set(have)):
                raise StoreError(f"image {beyond[0]} is not among the {len(have):,} images of these rows")
            chosen = replace(chosen, _samples=tuple(sorted(some)))
        return chosen

    def read(self, i: int) -> np.ndarray:
        """Updates of the i-th image of these rows, (step, branch, y, x, channel) float32."""
        shard, offset = self.store.shard_of(self.samples[i])
        rows = self._empty(prod(self.shape[1:-1]))
        with self.store.chunks(shard) as chunks:
            self._read(chunks, np.array([offset]), rows)
        return decode(rows.values, rows.scale, rows.dtype).reshape(self.shape[1:])

    def positions(self, i: int) -> np.ndarray:
        """Flat indices (y * width + x) on the block's grid of what `read(i)` holds, (y * x,) int64."""
        if self.store.schema.positions is None:
            return np.arange(prod(self.store.schema.grid(self.block)))
        shard, offset = self.store.shard_of(self.samples[i])
        with self.store.shard(shard) as file:
            return file[f"{self.block}/positions"][offset].astype(np.int64)

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """`n` rows without repetition, (n, width) float32; all rows, shuffled, where there are fewer.

        The rows come from up to 1024 random images (more only if those do not have enough rows).
        """
        per_image = prod(self.shape[1:-1])
        images = min(len(self.samples), max(1024, -(-n // per_image)))
        rng = np.random.default_rng([seed, 0x5A])
        some = np.sort(rng.choice(len(self.samples), images, replace=False))
        picked = np.sort(rng.choice(images * per_image, min(n, images * per_image), replace=False))
        owners = picked // per_image
        parts = [
            self.read(int(some[k])).reshape(-1, self.width)[picked[owners == k] - k * per_image]
            for k in np.unique(owners)
        ]
        rows = np.concatenate([np.empty((0, self.width), np.float32), *parts])
        return rows[rng.permutation(len(rows))]

    def batches(
        self,
        batch_size: int,
        seed: int = 0,
        epochs: int | None = 1,
        rank: int = 0,
        world: int = 1,
        cursor: Cursor | None = None,
        pool_bytes: int = POOL_BYTES,
    ) -> Batches:
        """Shuffled batches (batch_size, width) float32: each row once an epoch, the last batch partial.

        Chunks of the store are drawn at random into a pool in memory, rows at random from the pool. Ranks
        share an epoch without overlap. `epochs=None` never ends. `.cursor` of the iterator, given back as
        `cursor`, goes on with the very next row; nothing is read again but the pool it stood in.

        One epoch, and rows of more than half the machine's memory, are read past the system's page cache;
        other rows stay in it for the next epoch. Memory: at most two pools of `pool_bytes`, kept for the
        next batches of any store, and a batch.
        """
        units = self._units()
        unit_rows = (units[:, 2] - units[:, 1]) * prod(self.shape[1:-1])
        row_bytes = self.store.schema.row_bytes(self.block)
        pool_rows = max(1, pool_bytes // row_bytes)
        capacity = min(len(self), pool_rows + int(unit_rows.max(initial=0)))
        once = epochs == 1 or len(self) * row_bytes > _memory() // 2
        return Batches(
            unit_rows=unit_rows,
            load=lambda chosen, used: self._pool(units[chosen], used, capacity, once),
            width=self.width,
            batch_size=batch_size,
            seed=seed,
            epochs=epochs,
            rank=rank,
            world=world,
            cursor=cursor,
            pool_rows=pool_rows,
            identity=self.digest,
            spare=_SPARE,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of what these rows are: the store's digest and the filters."""
        chosen = None if self._samples is None else digest(np.array(self._samples, np.int64).tobytes())
        return digest(canonical([self.store.digest, self.block, self._steps, self._branches, chosen]))

    @property
    def moments(self) -> Moments:
        """Mean, variance, count and norms over all these rows together."""
        if self._samples is None:
            return self.store.moments(self.block).select(list(self._steps), list(self._branches))
        images = (self.read(i).reshape(-1, self.width) for i in range(len(self.samples)))
        parts = (moments_of(rows, overwrite=True) for rows in images)
        return reduce(Moments.__add__, parts, empty((), self.width))

    def _units(self) -> np.ndarray:
        """What is read at once, a chunk of HDF5: (units, 3) int64 of shard and [first, last) of `samples`."""
        entries, schema = self.store.entries, self.store.schema
        chunks = np.array([chunk_samples(schema, self.block, entry.samples) for entry in entries], np.int64)
        chosen = np.asarray(self.samples, np.int64)
        shard = np.searchsorted(self.store.offsets, chosen, side="right") - 1
        chunk = (chosen - self.store.offsets[shard]) // chunks[shard]
        first = np.flatnonzero(np.diff(shard, prepend=-1) | np.diff(chunk, prepend=-1))
        return np.stack([shard[first], first, np.append(first, len(chosen))[1:]], axis=1)

    def _pool(self, units: np.ndarray, used: Pool | None, capacity: int = 0, once: bool = False) -> Pool:
        """Rows of units, in the units' order, still encoded: in the memory of a `used` pool, or in new memory
        for them or for `capacity` rows. `once`: they will not be read again."""
        starts = np.cumsum([0, *(units[:, 2] - units[:, 1])]) * prod(self.shape[1:-1])
        if used is None or not used.holds(int(starts[-1]), self.width, self.store.schema.dtype):
            used = self._empty(max(int(starts[-1]), capacity))
        pool, offsets = used, self.store.offsets

        def read(some: np.ndarray) -> None:
            for shard, numbers in groupby(some.tolist(), key=lambda unit: int(units[unit, 0])):
                with self.store.chunks(shard, once) as chunks:
                    for unit in numbers:
                        samples = np.asarray(self.samples[units[unit, 1] : units[unit, 2]]) - offsets[shard]
                        self._read(chunks, samples, pool.part(slice(starts[unit], starts[unit + 1])))

        in_file_order = np.lexsort((units[:, 1], units[:, 0]))
        with ThreadPoolExecutor(READERS, "unbox-chunks") as readers:
            list(readers.map(read, np.array_split(in_file_order, READERS)))
        return pool

    def _empty(self, rows: int) -> Pool:
        """New memory for encoded rows."""
        dtype, encoding = self.store.schema.dtype, NUMBER_FORMATS[self.store.schema.dtype]
        scale = np.empty(rows, np.float32) if encoding.scale_bytes else None
        return Pool(np.empty((rows, self.width), encoding.stored), scale, dtype)

    def _read(self, chunks: ShardChunks, samples: np.ndarray, into: Pool) -> None:
        """Read samples of one chunk of a shard (ascending) into the memory of as many rows."""
        shape = (len(samples), *self.shape[1:])
        self._read_dataset(chunks, "values", samples, into.values.reshape(shape))
        if into.scale is not None:
            self._read_dataset(chunks, "scale", samples, into.scale.reshape(shape[:-1]))

    def _read_dataset(self, chunks: ShardChunks, name: str, samples: np.ndarray, out: np.ndarray) -> None:
        """One chunk for each step and branch, without a copy between where all of it is wanted in a row."""
        reader, place = chunks[0], chunks[1][f"{self.block}/{name}"]
        together, rest = place.chunk[0], (0,) * (place.offsets.ndim - 3)
        first = int(samples[0]) // together
        whole = len(samples) == together and out.shape[1:3] == (1, 1)
        chunk = out if whole else np.empty(place.chunk, out.dtype)
        for i, step in enumerate(self._steps):
            for j, branch in enumerate(self._branches):
                place.read(reader, (first, step, branch, *rest), chunk)
                if not whole:
                    out[:, i, j] = chunk[samples - first * together, 0, 0]


def _memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _choose(kind: str, wanted: set[Name], have: Sequence[Name], indices: Sequence[int]) -> tuple[int, ...]:
    if unknown := wanted - set(have):
        some = ", ".join(sorted(map(str, unknown))[:5])
        raise StoreError(f"these rows have no {kind} {some}; they have {', '.join(map(str, have))}")
    if not wanted:
        raise StoreError(f"no {kind} was chosen; there are {', '.join(map(str, have))}")
    return tuple(i for name, i in zip(have, indices, strict=True) if name in wanted)
