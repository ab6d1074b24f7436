"""Shuffled batches from units that are read at once: a pure function of the seed, resumable at any row.

An epoch is a sequence of rows fixed by (seed, epoch): units are permuted and dealt to the ranks, consecutive
units make pools of bounded size, each pool's rows are permuted. A batch is the next rows of that sequence.
So a cursor is only (epoch, row), and resuming loads one pool.
"""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Protocol, TypedDict, cast

import numpy as np

from activation_store.errors import StoreError
from activation_store.number_formats import decode, take
from activation_store.whole_number import whole_number

#: JSON: whose rows, seed, rank and pools these are, and the epoch and row where the next batch begins.
Cursor = dict[str, str | int]

#: Where a pool is: its epoch, and its first unit in the rank's order.
Place = tuple[int, int]

#: Encoded bytes of a pool: rows are shuffled across all that fits.
POOL_BYTES = 256 << 20


class BatchOptions(TypedDict, total=False):
    """The options of `batches`, by name: the fields of `BatchOrder` but the size."""

    seed: int
    epochs: int | None
    rank: int
    world: int
    cursor: Cursor | None
    pool_bytes: int


@dataclass(frozen=True)
class BatchOrder:
    """Which batches are made of some rows. Raises StoreError for what cannot be."""

    batch_size: int
    seed: int = 0
    """Of the order of the rows."""
    epochs: int | None = 1
    """Times that each row comes; None: no end."""
    rank: int = 0
    world: int = 1
    """Processes that share an epoch."""
    cursor: Cursor | None = None
    """Where to begin; None: at the first row."""
    pool_bytes: int = POOL_BYTES
    """Encoded bytes of the rows that are shuffled together."""

    def __post_init__(self) -> None:
        given = {"batch_size": self.batch_size, "seed": self.seed, "rank": self.rank, "world": self.world}
        given |= {"pool_bytes": self.pool_bytes, "epochs": 0 if self.epochs is None else self.epochs}
        for name, value in given.items():
            whole_number(value, name)
        if (
            min(self.batch_size, self.pool_bytes) < 1
            or self.seed < 0
            or not 0 <= self.rank < self.world
            or (self.epochs is not None and self.epochs < 0)
        ):
            raise StoreError(
                f"batches of {self.batch_size} for rank {self.rank} of {self.world}, seed {self.seed}, "
                f"{self.epochs} epochs, pools of {self.pool_bytes} bytes: sizes must be positive, the seed "
                "and epochs not negative, and rank below world"
            )


@dataclass(frozen=True)
class Pool:
    """Rows in memory, still encoded: values (rows, d), scales (rows,) for int8; and room for more."""

    values: np.ndarray
    scale: np.ndarray | None
    dtype: str

    def holds(self, rows: int, width: int, dtype: str) -> bool:
        """Whether so many rows of another pool fit in here, and are of this kind."""
        return self.dtype == dtype and self.values.shape[1] == width and len(self.values) >= rows

    def part(self, rows: slice) -> "Pool":
        """Some rows, a view."""
        return Pool(self.values[rows], None if self.scale is None else self.scale[rows], self.dtype)

    def decoded(self) -> np.ndarray:
        """All of it, (rows, d) float32."""
        return decode(self.values, self.scale, self.dtype)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Some rows, (len(rows), d) float32."""
        return take(self.values, self.scale, rows, self.dtype)


#: Reads some units' rows in the order given, in the memory of a used pool if it likes.
Load = Callable[[np.ndarray, Pool | None], Pool]


@dataclass(frozen=True)
class Window:
    """A shuffled order that reads each shard once: shards come one after another in random order, and the
    units of each are spread over the time in which `length` of them come."""

    shards: np.ndarray
    """Of each unit, the number of its shard."""
    length: int

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Units in the order in which they are read."""
        shards, of_unit = np.unique(self.shards, return_inverse=True)
        begin = rng.permutation(len(shards))[of_unit]
        return np.argsort(begin + self.length * rng.random(len(of_unit)), kind="stable")


class Gather(Protocol):
    """How rows are taken from pools: on the host, or where a training step wants them."""

    def prepare(self, pool: Pool) -> object:
        """What is to be made of a pool beforehand, by the thread that reads ahead."""
        ...

    def take(self, pool: Pool, rows: np.ndarray, prepared: object) -> object:
        """Some rows of a pool, decoded; the pool's memory is another's soon after."""
        ...


class HostGather:
    """Rows as float32 on the host."""

    def prepare(self, pool: Pool) -> None:
        """Nothing."""

    def take(self, pool: Pool, rows: np.ndarray, prepared: object) -> np.ndarray:
        """(len(rows), d) float32."""
        return pool.take(rows)


class Batches(Iterator[np.ndarray]):
    """Iterator of (B, width) float32 with a `cursor`."""

    def __init__(
        self,
        order: BatchOrder,
        *,
        unit_rows: np.ndarray,
        load: Load,
        width: int,
        pool_rows: int,
        identity: str,
        spare: list[Pool] | None = None,
        window: "Window | None" = None,
    ) -> None:
        """`unit_rows[k]` rows lie in unit k; `load(units, used)` reads some units' rows in the order given,
        in the memory of a used pool if it likes.

        `identity` names the rows; a cursor of other rows is refused. `spare`: used pools, for use again.
        `window`: units come from few shards at a time.
        """
        if not unit_rows.sum():
            raise StoreError("there are no rows to make batches of")
        self.width, self.order = width, order
        self._unit_rows, self._pool_rows = unit_rows, pool_rows
        self._spare = [] if spare is None else spare
        self._read: Callable[[Place, np.ndarray, Pool | None], Pool] = partial(_load_any, load)
        self._fixed: Cursor = {"rows": identity, "seed": order.seed, "rank": order.rank}
        self._fixed |= {"world": order.world, "pool_rows": pool_rows}
        self._window = window
        if window is not None:
            self._fixed["shards_at_once"] = window.length
        self._epoch, self._row = (0, 0) if order.cursor is None else self._restore(order.cursor)
        self._reader = ThreadPoolExecutor(1, "unbox-read")
        self._batches = self._generate()
        self.gather: Gather = HostGather()
        """To be set, if at all, before the first batch is taken."""

    @property
    def cursor(self) -> Cursor:
        """JSON: where the next batch begins. The call that made this iterator goes on from there with it."""
        return {**self._fixed, "epoch": self._epoch, "row": self._row}

    def __next__(self) -> np.ndarray:
        parts = cast(list[np.ndarray], self.next_parts())
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def next_parts(self) -> list[object]:
        """The next batch as `gather` takes it, in the pieces that lie in different pools."""
        return next(self._batches)

    def close(self) -> None:
        """Stop reading ahead, and wait for what is being read."""
        self._batches.close()
        self._reader.shutdown()

    def _restore(self, cursor: Cursor) -> tuple[int, int]:
        if wrong := [key for key, value in self._fixed.items() if cursor.get(key) != value]:
            raise StoreError(
                f"the cursor was made with other {', '.join(wrong)}: go on with the same rows, seed and ranks"
            )
        epoch, row = cursor.get("epoch"), cursor.get("row")
        if type(epoch) is not int or type(row) is not int or min(epoch, row) < 0:
            raise StoreError(f"the cursor's place {(epoch, row)} is not (epoch, row)")
        return epoch, row

    def _generate(self) -> Generator[list[object], None, None]:
        try:
            while self.order.epochs is None or self._epoch < self.order.epochs:
                yield from self._generate_epoch()
                self._epoch, self._row = self._epoch + 1, 0
        finally:
            # Never waits: an iterator that was dropped ends here while garbage is collected, which may happen
            # as some other thread is being started, and joining one then waits for ever.
            self._reader.shutdown(wait=False, cancel_futures=True)

    def _generate_epoch(self) -> Iterator[list[object]]:
        parts: list[object] = []  # of the next batch, from the ends of pools
        missing = self.order.batch_size
        for pool, order, prepared in self._pools():
            at = 0
            while at < len(order):
                rows = order[at : at + missing]
                parts.append(self.gather.take(pool, rows, prepared))
                at, missing = at + len(rows), missing - len(rows)
                if not missing:
                    self._row += self.order.batch_size
                    yield parts
                    parts, missing = [], self.order.batch_size
        if parts:
            self._row += self.order.batch_size - missing
            yield parts

    def _pools(self) -> Iterator[tuple[Pool, np.ndarray, object]]:
        """Pools of this epoch and the order of their rows, from the current row on; one is read ahead."""
        seed, rank, world = self.order.seed, self.order.rank, self.order.world
        rng = np.random.default_rng([seed, self._epoch, 0])
        if self._window is None:
            order = rng.permutation(len(self._unit_rows))[rank::world]
        else:
            order = self._window.order(rng)[rank::world]
        starts = np.cumsum([0, *self._unit_rows[order]], dtype=np.int64)
        pool_of_unit = starts[:-1] // self._pool_rows
        bounds = np.flatnonzero(np.diff(pool_of_unit, prepend=-1, append=-1))
        jobs = [(first, last) for first, last in pairwise(bounds) if starts[last] > self._row]
        skip = self._row

        def load(number: int) -> Future[tuple[Pool, object]]:
            first, last = jobs[number]
            place = (self._epoch, int(first))
            return self._reader.submit(
                _read, self._read, self.gather.prepare, place, order[first:last], pop(self._spare)
            )

        ahead = [load(0)] if jobs else []
        for number, (first, last) in enumerate(jobs):
            pool, prepared = ahead.pop().result()
            if number + 1 < len(jobs):
                ahead.append(load(number + 1))
            rows = int(starts[last] - starts[first])
            permutation = np.random.default_rng([seed, self._epoch, 1, rank, int(first)]).permutation(rows)
            yield pool, permutation[max(0, skip - int(starts[first])) :], prepared
            if len(self._spare) < 2:
                self._spare.append(pool)


def _read(
    read: Callable[[Place, np.ndarray, Pool | None], Pool],
    prepare: Callable[[Pool], object],
    place: Place,
    units: np.ndarray,
    used: Pool | None,
) -> tuple[Pool, object]:
    """A pool and what is made of it. Holds no iterator of batches, as `_load_any`."""
    pool = read(place, units, used)
    return pool, prepare(pool)


def _load_any(load: Load, place: Place, units: np.ndarray, used: Pool | None) -> Pool:
    """The rows of some units, wherever they are in an epoch. Holds no iterator of batches, so that one that
    was dropped can end."""
    return load(units, used)


def pop(pools: list[Pool]) -> Pool | None:
    """One of some used pools, if there is one."""
    try:
        return pools.pop()
    except IndexError:
        return None
