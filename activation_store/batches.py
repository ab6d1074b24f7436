"""Shuffled batches from units that are read at once: a pure function of the seed, resumable at any row.

An epoch is a sequence of rows fixed by (seed, epoch): units are permuted and dealt to the ranks, consecutive
units make pools of bounded size, each pool's rows are permuted. A batch is the next rows of that sequence.
So a cursor is only (epoch, row), and resuming loads one pool.
"""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from activation_store.errors import StoreError
from activation_store.number_formats import decode, take

#: JSON: whose rows, seed, rank and pools these are, and the epoch and row where the next batch begins.
Cursor = dict[str, str | int]

#: Encoded bytes of a pool: rows are shuffled across all that fits.
POOL_BYTES = 256 << 20


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


class Batches(Iterator[np.ndarray]):
    """Iterator of (B, width) float32 with a `cursor`."""

    def __init__(
        self,
        *,
        unit_rows: np.ndarray,
        load: Callable[[np.ndarray, Pool | None], Pool],
        width: int,
        batch_size: int,
        seed: int,
        epochs: int | None,
        rank: int,
        world: int,
        cursor: Cursor | None,
        pool_rows: int,
        identity: str,
        spare: list[Pool] | None = None,
    ) -> None:
        """`unit_rows[k]` rows lie in unit k; `load(units, used)` reads some units' rows in the order given,
        in the memory of a used pool if it likes.

        `identity` names the rows; a cursor of other rows is refused. `spare`: used pools, for use again.
        """
        if batch_size < 1 or seed < 0 or not 0 <= rank < world or (epochs is not None and epochs < 0):
            raise StoreError(
                f"batches of {batch_size} for rank {rank} of {world}, seed {seed}, {epochs} epochs: "
                "sizes must be positive, the seed and epochs not negative, and rank below world"
            )
        if not unit_rows.sum():
            raise StoreError("there are no rows to make batches of")
        self.width, self.batch_size, self.epochs = width, batch_size, epochs
        self._unit_rows, self._load, self._pool_rows = unit_rows, load, pool_rows
        self._spare = [] if spare is None else spare
        self._seed, self._rank, self._world = seed, rank, world
        self._fixed: Cursor = {"rows": identity, "seed": seed, "rank": rank, "world": world}
        self._fixed["pool_rows"] = pool_rows
        self._epoch, self._row = self._restore(cursor) if cursor is not None else (0, 0)
        self._reader = ThreadPoolExecutor(1, "unbox-read")
        self._batches = self._generate()

    @property
    def cursor(self) -> Cursor:
        """JSON: where the next batch begins. The call that made this iterator goes on from there with it."""
        return {**self._fixed, "epoch": self._epoch, "row": self._row}

    def __next__(self) -> np.ndarray:
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

    def _generate(self) -> Generator[np.ndarray, None, None]:
        try:
            while self.epochs is None or self._epoch < self.epochs:
                yield from self._generate_epoch()
                self._epoch, self._row = self._epoch + 1, 0
        finally:
            # Never waits: an iterator that was dropped ends here while garbage is collected, which may happen
            # as some other thread is being started, and joining one then waits for ever.
            self._reader.shutdown(wait=False, cancel_futures=True)

    def _generate_epoch(self) -> Iterator[np.ndarray]:
        parts: list[np.ndarray] = []  # of the next batch, from the ends of pools
        for pool, order in self._pools():
            at = 0
            while at < len(order):
                part = pool.take(order[at : at + self.batch_size - sum(map(len, parts))])
                at += len(part)
                parts.append(part)
                if sum(map(len, parts)) == self.batch_size:
                    yield self._emit(parts)
                    parts = []
        if parts:
            yield self._emit(parts)

    def _emit(self, parts: list[np.ndarray]) -> np.ndarray:
        batch = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self._row += len(batch)
        return batch

    def _pools(self) -> Iterator[tuple[Pool, np.ndarray]]:
        """Pools of this epoch and the order of their rows, from the current row on; one is read ahead."""
        seed, rank, world = self._seed, self._rank, self._world
        order = np.random.default_rng([seed, self._epoch, 0]).permutation(len(self._unit_rows))[rank::world]
        starts = np.cumsum([0, *self._unit_rows[order]], dtype=np.int64)
        pool_of_unit = starts[:-1] // self._pool_rows
        bounds = np.flatnonzero(np.diff(pool_of_unit, prepend=-1, append=-1))
        jobs = [(first, last) for first, last in pairwise(bounds) if starts[last] > self._row]
        skip = self._row

        def load(number: int) -> Future[Pool]:
            return self._reader.submit(self._load, order[slice(*jobs[number])], _pop(self._spare))

        ahead = [load(0)] if jobs else []
        for number, (first, last) in enumerate(jobs):
            pool = ahead.pop().result()
            if number + 1 < len(jobs):
                ahead.append(load(number + 1))
            rows = int(starts[last] - starts[first])
            permutation = np.random.default_rng([seed, self._epoch, 1, rank, int(first)]).permutation(rows)
            yield pool, permutation[max(0, skip - int(starts[first])) :]
            if len(self._spare) < 2:
                self._spare.append(pool)


def _pop(pools: list[Pool]) -> Pool | None:
    try:
        return pools.pop()
    except IndexError:
        return None
