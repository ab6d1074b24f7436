"""Where training rows come from: a block of an activation store, or an array in memory.

Anything that answers to `RowSource` can be fitted; `activation_store.Rows` does.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Unpack, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from activation_store import Store
from activation_store.batches import BatchOptions, BatchOrder, Cursor
from unbox.errors import UnboxError
from unbox.validation import Amount, checked


class RowBatches(Iterator[np.ndarray], Protocol):
    """Batches of float32 (B, d), B at most the size asked for; `cursor` is the place after the last one."""

    @property
    def cursor(self) -> Cursor: ...

    def close(self) -> None: ...


@runtime_checkable
class AwaitedBatches(RowBatches, Protocol):
    """Batches that may be minutes in coming."""

    def ready(self, seconds: float) -> bool:
        """Whether the next batch is there, after waiting for it for so long at most."""
        ...


@runtime_checkable
class RowSource(Protocol):
    """Vectors of one width, served shuffled: each exactly once an epoch, restorable from a cursor."""

    @property
    def width(self) -> int: ...

    def __len__(self) -> int: ...

    def sample(self, n: int, seed: int = 0) -> np.ndarray: ...

    def batches(self, batch_size: int, **options: Unpack[BatchOptions]) -> RowBatches: ...


@runtime_checkable
class ImageRows(RowSource, Protocol):
    """Rows of images, each (step, branch, y, x, d): figures are by step, branch and position too."""

    @property
    def samples(self) -> Sequence[int]: ...

    @property
    def steps(self) -> Sequence[int]: ...

    @property
    def branches(self) -> Sequence[str]: ...

    def read(self, i: int) -> np.ndarray: ...


#: What is taken for rows: see `row_sources`.
RowsLike = RowSource | Store | Mapping[str, RowSource] | np.ndarray | Tensor


class ArrayRows:
    """Rows in memory: an array (..., d), flattened to (rows, d) float32 for training.

    `block` names where the rows were recorded, if anywhere.
    """

    def __init__(self, array: np.ndarray | Tensor, block: str = "") -> None:
        if isinstance(array, Tensor):
            array = array.detach().cpu()
            array = array.float() if array.dtype == torch.bfloat16 else array  # NumPy has none
        array = np.asarray(array)
        if array.ndim < 2 or array.shape[-1] == 0 or array.dtype.kind not in "fiub":
            raise UnboxError(f"rows are numbers of shape (..., width); these are {array.dtype} {array.shape}")
        self.array = np.ascontiguousarray(array.reshape(-1, array.shape[-1]), dtype=np.float32)
        self.block = block

    @property
    def width(self) -> int:
        """Length d of a row."""
        return self.array.shape[1]

    def __len__(self) -> int:
        return len(self.array)

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """(min(n, rows), d): rows drawn without replacement."""
        chosen = np.random.default_rng(seed).permutation(len(self))[:n]
        return self.array[chosen]

    def batches(self, batch_size: int, **options: Unpack[BatchOptions]) -> "ArrayBatches":
        """Iterator of (B, d): a new permutation each epoch; the last batch of an epoch may be smaller.

        Of `world` ranks each is given `batch_size` rows, its share of the same `world * batch_size` rows.
        """
        order = BatchOrder(batch_size, **options)
        found = {"epoch": 0, "at": 0} if order.cursor is None else order.cursor
        epoch, at = (checked(Amount, name, found.get(name), "the cursor") for name in ("epoch", "at"))
        return ArrayBatches(self, order, epoch, at)


@dataclass
class ArrayBatches(Iterator[np.ndarray]):
    """Batches of `ArrayRows`."""

    rows: ArrayRows
    order: BatchOrder
    epoch: int = 0
    at: int = 0

    def __post_init__(self) -> None:
        self._rows_in_order = self._permutation()

    @property
    def cursor(self) -> Cursor:
        """Where the next batch begins; the same for every rank."""
        return {"epoch": self.epoch, "at": self.at}

    def close(self) -> None:
        """Nothing is read ahead."""

    def __next__(self) -> np.ndarray:
        if self.at >= len(self.rows):
            self.epoch, self.at = self.epoch + 1, 0
            self._rows_in_order = self._permutation()
        order = self.order
        if order.epochs is not None and self.epoch >= order.epochs:
            raise StopIteration
        taken = self._rows_in_order[self.at : self.at + order.batch_size * order.world]
        self.at += len(taken)
        return self.rows.array[taken[order.rank :: order.world]]

    def _permutation(self) -> np.ndarray:
        return np.random.default_rng((self.order.seed, self.epoch)).permutation(len(self.rows))


def row_sources(rows: RowsLike) -> dict[str, RowSource]:
    """Block name -> source: of a store (its blocks), a mapping, one source, or one array.

    A single source is under its own `block`, or "" where it has none.
    """
    if isinstance(rows, Mapping):
        arrays = (np.ndarray, Tensor)
        return {
            name: ArrayRows(each, name) if isinstance(each, arrays) else each for name, each in rows.items()
        }
    if isinstance(rows, Store):
        return {block: rows[block] for block in rows.blocks}
    source = rows if isinstance(rows, RowSource) else ArrayRows(rows)
    return {getattr(source, "block", ""): source}


def source_of(sources: Mapping[str, RowSource], block: str) -> RowSource:
    """The rows of a block; raises UnboxError, naming those that there are, if it has none."""
    if block not in sources:
        raise UnboxError(f"no rows of '{block}'; there are rows of {', '.join(sources) or 'no block'}")
    return sources[block]


def filtered(
    source: RowSource, steps: Sequence[int] | None = None, branches: Sequence[str] | None = None
) -> RowSource:
    """The rows of some steps and branches. Raises UnboxError for rows that have none, StoreError for a step
    or branch that is not among theirs."""
    chosen = {"steps": steps, "branches": branches}
    asked = {name: list(value) for name, value in chosen.items() if value is not None}
    if not asked:
        return source
    if (choose := getattr(source, "filter", None)) is None:
        raise UnboxError(f"{' and '.join(asked)} choose among the rows of a store; these are of none")
    found: RowSource = choose(**asked)
    return found
