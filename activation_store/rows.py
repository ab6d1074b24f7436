"""The rows of one block: filters, one image's updates, samples, training batches, statistics."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce
from itertools import groupby, product
from math import prod
from typing import Any, TypeVar, Unpack

import numpy as np

from activation_store.batches import Batches, BatchOptions, BatchOrder, Pool, Window
from activation_store.errors import StoreError
from activation_store.files import canonical, digest
from activation_store.moments import Moments, empty, moments_of
from activation_store.shards import ChunkGroup, Shards, new_pool
from activation_store.whole_number import whole_number

#: A step or a branch.
Name = TypeVar("Name", int, str)

#: Threads that fill a pool: some wait for the disk while others sum.
READERS = 4

#: Of a store at a URL: shards that batches come from at one time (as many as half of the cache holds, where
#: that is fewer), and shards that a sample comes from.
SHARDS_AT_ONCE, SHARDS_SAMPLED = 32, 16

#: Pools (two at most) that nobody reads any more. New memory in their place would cost more than reading.
_SPARE: list[Pool] = []


@dataclass(frozen=True)
class Rows:
    """Updates of one block in a store: one row (a vector of `width`) per image, step, branch and position."""

    shards: Shards
    block: str
    _steps: tuple[int, ...]
    _branches: tuple[int, ...]
    _samples: tuple[int, ...] | None
    """Chosen images, ascending; None for all."""

    @property
    def width(self) -> int:
        """Channels d of a vector."""
        return self.shards.schema.blocks[self.block][2]

    @property
    def dtype(self) -> str:
        """The store's number format."""
        return self.shards.schema.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of an encoded row."""
        return self.shards.schema.row_bytes(self.block)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the store of these rows records of its run."""
        return self.shards.schema.provenance

    @property
    def steps(self) -> tuple[int, ...]:
        """The scheduler's step indices that these rows are of."""
        steps = self.shards.schema.steps_of(self.block)
        return tuple(steps[i] for i in self._steps)

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that these rows are of."""
        branches = self.shards.schema.branches_of(self.block)
        return tuple(branches[i] for i in self._branches)

    @property
    def samples(self) -> Sequence[int]:
        """The store's images that these rows are of."""
        return range(len(self.shards)) if self._samples is None else self._samples

    @property
    def shape(self) -> tuple[int, int, int, int, int, int]:
        """(samples, steps, branches, y, x, channels)."""
        y, x = self.shards.schema.grid(self.block)
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
            wanted = {
                whole_number(i, "a step") for i in ((steps,) if not isinstance(steps, Iterable) else steps)
            }
            chosen = replace(chosen, _steps=_choose("step", wanted, self.steps, self._steps))
        if branches is not None:
            names = {branches} if isinstance(branches, str) else set(branches)
            chosen = replace(chosen, _branches=_choose("branch", names, self.branches, self._branches))
        if samples is not None:
            have = self.samples
            some = (
                set(have[samples])
                if isinstance(samples, slice)
                else {whole_number(i, "an image") for i in samples}
            )
            if beyond := sorted(some - set(have)):
                raise StoreError(f"image {beyond[0]} is not among the {len(have):,} images of these rows")
            chosen = replace(chosen, _samples=tuple(sorted(some)))
        return chosen

    def read(self, i: int) -> np.ndarray:
        """Updates of the i-th image of these rows, (step, branch, y, x, channel) float32."""
        return self.read_images(range(len(self.samples))[i : i + 1 or None])[0]

    def read_images(self, images: Sequence[int]) -> np.ndarray:
        """Updates of some of these rows' images, (image, step, branch, y, x, channel) float32.

        Neighbours are read a chunk at a time, also from one call to the next.
        """
        out = np.empty((len(images), *self.shape[1:]), np.float32)
        shard, place = self.shards.places(self._numbers(images))
        together = self.shards.chunk_samples(self.block)[shard]
        for at, (number, chunk) in enumerate(zip(shard.tolist(), (place // together).tolist(), strict=True)):
            pool = self.shards.recent(number, self.block, chunk, self._steps, self._branches)
            rows = prod(self.shape[1:-1])
            first = int(place[at] - chunk * together[at]) * rows
            out[at] = pool.part(slice(first, first + rows)).decoded().reshape(self.shape[1:])
        return out

    def _numbers(self, images: Sequence[int]) -> np.ndarray:
        """The store's numbers of some of these rows' images."""
        have = self.samples
        return np.array([have[int(i)] for i in images], np.int64)

    def positions(self, i: int) -> np.ndarray:
        """Flat indices (y * width + x) on the block's grid of what `read(i)` holds, (y * x,) int64."""
        return self.positions_of(range(len(self.samples))[i : i + 1 or None])[0]

    def positions_of(self, images: Sequence[int]) -> np.ndarray:
        """`positions` of some of these rows' images, (image, y * x) int64."""
        grid = prod(self.shards.schema.grid(self.block))
        if self.shards.schema.positions is None:
            return np.tile(np.arange(grid), (len(images), 1))
        out = np.empty((len(images), grid), np.int64)
        shard, place = self.shards.places(self._numbers(images))
        for number in np.unique(shard):
            with self.shards.shard(int(number)) as file:
                out[shard == number] = file[f"{self.block}/positions"][()][place[shard == number]]
        return out

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """`n` rows without repetition, (n, width) float32; all rows, shuffled, where there are fewer.

        They come from random chunks, about a quarter of the rows of each: `4 n` rows are read (16 chunks at
        least), whatever the store holds. Where 1024 random images are no more than that, the rows are theirs.
        Of a store at a URL they come from `SHARDS_SAMPLED` shards, or as many as have twice the rows.
        """
        return self.take(self.draw(n, seed))

    def draw(self, n: int, seed: int = 0) -> "Picks":
        """Which rows `sample` takes: the same of other rows with the same images, steps and places."""
        n = whole_number(n, "the number of rows to draw", 0)
        rng = np.random.default_rng([seed, 0x5A])
        groups = list(product(range(len(self._steps)), range(len(self._branches))))
        cells = self._cells(n, rng, len(groups))
        starts = np.cumsum([0, *((cells.last - cells.first) * self._per_group)])
        rows = np.sort(rng.choice(int(starts[-1]), min(n, int(starts[-1])), replace=False))
        bounds = np.searchsorted(rows, starts)
        parts = []
        for k in np.flatnonzero(np.diff(bounds)):
            some = rows[bounds[k] : bounds[k + 1]] - starts[k]
            parts.append((range(cells.first[k], cells.last[k]), *groups[cells.group[k]], some))
        return Picks(parts, rng.permutation(len(rows)))

    def take(self, picks: "Picks") -> np.ndarray:
        """The rows that were drawn, (n, width) float32."""
        parts = [np.empty((0, self.width), np.float32)]
        for images, step, branch, some in picks.parts:
            one = replace(self, _steps=(self._steps[step],), _branches=(self._branches[branch],))
            parts.append(one.read_images(images).reshape(-1, self.width)[some])
        return np.concatenate(parts)[picks.order]

    def batches(self, batch_size: int, **options: Unpack[BatchOptions]) -> Batches:
        """Shuffled batches (batch_size, width) float32: each row once an epoch, the last batch partial.

        Chunks of the store are drawn at random into a pool in memory, rows at random from the pool. Ranks
        share an epoch without overlap. `epochs=None` never ends. `.cursor` of the iterator, given back as
        `cursor`, goes on with the very next row; nothing is read again but the pool it stood in.

        Of a store at a URL chunks come from `SHARDS_AT_ONCE` shards at a time, so that each is fetched once
        an epoch (`batches.Window`).

        One epoch, and rows of more than half the machine's memory, are read past the system's page cache;
        other rows stay in it for the next epoch. Memory: at most two pools of `pool_bytes`, kept for the
        next batches of any store, and a batch.
        """
        return batches_in_turn((self,), BatchOrder(batch_size, **options), self.digest)

    @property
    def digest(self) -> str:
        """SHA-256 of what these rows are: the store's digest and the filters."""
        chosen = None if self._samples is None else digest(np.array(self._samples, np.int64).tobytes())
        return digest(canonical([self.shards.digest, self.block, self._steps, self._branches, chosen]))

    @property
    def moments(self) -> Moments:
        """Mean, variance, count and norms over all these rows together."""
        if self._samples is None:
            return self.shards.sums[self.block].select(list(self._steps), list(self._branches))
        images = (self.read(i).reshape(-1, self.width) for i in range(len(self.samples)))
        parts = (moments_of(rows, overwrite=True) for rows in images)
        return reduce(Moments.__add__, parts, empty((), self.width))

    def units(self) -> np.ndarray:
        """What is read at once, a chunk of HDF5: (units, 3) int64 of shard and [first, last) of `samples`."""
        chosen = np.asarray(self.samples, np.int64)
        shard, place = self.shards.places(chosen)
        chunk = place // self.shards.chunk_samples(self.block)[shard] if len(chosen) else place
        first = np.flatnonzero(np.diff(shard, prepend=-1) | np.diff(chunk, prepend=-1))
        return np.stack([shard[first], first, np.append(first, len(chosen))[1:]], axis=1)

    def fill(self, pool: Pool, units: np.ndarray, starts: np.ndarray, once: bool = False) -> None:
        """Read the rows of some units, still encoded, each from the row of `pool` on where it starts. `once`:
        they will not be read again."""

        def read(some: np.ndarray) -> None:
            for shard, numbers in groupby(some.tolist(), key=lambda unit: int(units[unit, 0])):
                with self.shards.chunks(shard, once) as chunks:
                    for unit in numbers:
                        images = np.asarray(self.samples[units[unit, 1] : units[unit, 2]])
                        rows = slice(starts[unit], starts[unit] + len(images) * prod(self.shape[1:-1]))
                        group = ChunkGroup(
                            shard, self.block, self.shards.places(images)[1], self._steps, self._branches
                        )
                        self.shards.read(chunks, group, pool.part(rows))

        in_file_order = np.lexsort((units[:, 1], units[:, 0]))
        with ThreadPoolExecutor(READERS, "unbox-chunks") as readers:
            list(readers.map(read, np.array_split(in_file_order, READERS)))

    def new_pool(self, rows: int) -> Pool:
        """New memory for so many encoded rows."""
        return new_pool(rows, self.width, self.dtype)

    def _cells(self, n: int, rng: np.random.Generator, groups: int) -> "_Cells":
        """Where `sample` takes `n` rows from."""
        units, images = self.units(), len(self.samples)
        if self.shards.remote is not None:
            units = self._of_few_shards(units, n, rng)
            images = 0  # not single ones, which lie in as many shards
        some = min(images, max(1024, -(-n // prod(self.shape[1:-1]))))
        first = np.sort(rng.choice(images, some, replace=False))
        chunks = len(np.unique(np.searchsorted(units[:, 1], first, side="right"))) * groups
        budget = max(16, -(-4 * n * len(units) * groups // max(1, len(self))))
        if images and chunks <= budget:
            return _Cells(
                np.repeat(first, groups), np.repeat(first + 1, groups), np.tile(range(groups), some)
            )
        while True:
            cells = np.sort(rng.choice(len(units) * groups, min(budget, len(units) * groups), replace=False))
            unit = units[cells // groups]
            if (unit[:, 2] - unit[:, 1]).sum() * self._per_group >= n or len(cells) == len(units) * groups:
                return _Cells(unit[:, 1], unit[:, 2], cells % groups)
            budget *= 2

    def _of_few_shards(self, units: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """The units of some shards drawn at random."""
        shards, of_unit = np.unique(units[:, 0], return_inverse=True)
        rows = np.bincount(of_unit, units[:, 2] - units[:, 1]) * prod(self.shape[1:-1])
        drawn = rng.permutation(len(shards))
        enough = int(np.searchsorted(rows[drawn].cumsum(), 2 * n)) + 1
        return units[np.isin(of_unit, drawn[: max(SHARDS_SAMPLED, enough)])]

    @property
    def _per_group(self) -> int:
        """Rows of an image in one step and branch."""
        return prod(self.shards.schema.grid(self.block))


@dataclass(frozen=True)
class Picks:
    """Rows that were drawn at random."""

    parts: list[tuple[range, int, int, np.ndarray]]
    """Images, a step, a branch (their places among the rows' own), and which of those images' rows."""
    order: np.ndarray
    """The order of the rows of all parts."""


@dataclass(frozen=True)
class _Cells:
    """Some images [first, last) of one chunk, in one of the groups (steps x branches); an element each."""

    first: np.ndarray
    last: np.ndarray
    group: np.ndarray


def batches_in_turn(parts: Sequence[Rows], order: BatchOrder, identity: str) -> Batches:
    """Shuffled batches of the rows of some parts of one shape and format, as of one store."""
    of_parts, first = [rows.units() for rows in parts], parts[0]
    units = np.column_stack(
        [np.repeat(np.arange(len(parts)), [len(units) for units in of_parts]), np.concatenate(of_parts)]
    )
    unit_rows = (units[:, 3] - units[:, 2]) * prod(first.shape[1:-1])
    pool_rows = max(1, order.pool_bytes // first.row_bytes)
    capacity = min(sum(map(len, parts)), pool_rows + int(unit_rows.max(initial=0)))
    once = read_once(parts, order)

    def load(chosen: np.ndarray, used: Pool | None) -> Pool:
        some, starts = units[chosen], np.cumsum([0, *unit_rows[chosen]])
        if used is None or not used.holds(int(starts[-1]), first.width, first.dtype):
            used = first.new_pool(max(int(starts[-1]), capacity))
        for number in np.unique(some[:, 0]):
            here = np.flatnonzero(some[:, 0] == number)
            parts[number].fill(used, some[here, 1:], starts[here], once)
        return used

    return Batches(
        order,
        unit_rows=unit_rows,
        load=load,
        width=first.width,
        pool_rows=pool_rows,
        identity=identity,
        spare=_SPARE,
        window=window_of(parts, units[:, :2]),
    )


def read_once(parts: Sequence[Rows], order: BatchOrder) -> bool:
    """Whether rows are read past the page cache: nobody asks for them again, or it could not hold them."""
    return order.epochs == 1 or sum(len(rows) * rows.row_bytes for rows in parts) > _memory() // 2


def window_of(parts: Sequence[Rows], shards: np.ndarray) -> Window | None:
    """How units of some rows are ordered that lie at URLs, each in the shard that a row of `shards` names."""
    remote = [rows.shards for rows in parts if rows.shards.remote is not None]
    if not remote or not len(shards):
        return None
    largest = max((entry.bytes for some in remote for entry in some.entries), default=1)
    limit = min(some.remote.cache.limit for some in remote if some.remote is not None)
    length = min(SHARDS_AT_ONCE, max(1, limit // (2 * len(remote) * largest)))
    return Window(np.unique(shards, axis=0, return_inverse=True)[1].reshape(-1), length)


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
