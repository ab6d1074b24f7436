"""Rows of several stores or blocks read as one, without copying: one after the other, or side by side."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Unpack

import numpy as np

from activation_store.batches import Batches, BatchOptions, BatchOrder, Pool
from activation_store.errors import StoreError
from activation_store.files import canonical, digest
from activation_store.rows import Rows, batches_in_turn, read_once, window_of
from activation_store.samples import Sample
from activation_store.store import Store
from activation_store.whole_number import whole_number


def join_stores(paths: Iterable[str | os.PathLike]) -> dict[str, "JoinedRows"]:
    """Block -> the rows of several stores one after the other, for every block that all of them have.

    Raises StoreError where they have no block in common, or rows of other shapes.
    """
    stores = [Store.open(path) for path in paths]
    blocks = [block for block in stores[0].blocks if all(block in s.blocks for s in stores)] if stores else []
    if not blocks:
        raise StoreError("the stores have no block in common" if stores else "no stores were given to join")
    return {block: JoinedRows(tuple(store[block] for store in stores)) for block in blocks}


@dataclass(frozen=True)
class _SeveralRows:
    """What rows of several parts have in common; `parts[0]` says steps, branches and grid."""

    parts: tuple[Rows, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise StoreError("no rows were given")
        first = self.parts[0]
        for rows in self.parts[1:]:
            for name in ("steps", "branches"):
                one, other = getattr(first, name), getattr(rows, name)
                if one != other and not (name == "steps" and self._may_differ(one, other)):
                    raise StoreError(
                        f"{_said(first)} has {name} {one}, {_said(rows)} {other}: filter them first"
                    )
            if first.shape[3:5] != rows.shape[3:5]:
                both = f"{_said(first)} has {first.shape[3:5]} places, {_said(rows)} {rows.shape[3:5]}"
                raise StoreError(f"{both}: rows of one grid go together")

    def _may_differ(self, one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        """Whether parts may be of these steps, which are not the same."""
        return False

    @property
    def steps(self) -> tuple[int, ...]:
        """The scheduler's step indices that these rows are of."""
        return self.parts[0].steps

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that these rows are of."""
        return self.parts[0].branches

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.parts[0].width

    @property
    def samples(self) -> Sequence[int]:
        """Numbers of the images, from 0."""
        return range(len(self.parts[0].samples))

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the first part's store records of its run."""
        return self.parts[0].provenance

    @property
    def shape(self) -> tuple[int, int, int, int, int, int]:
        """(images, steps, branches, y, x, width)."""
        return (len(self.samples), *self.parts[0].shape[1:-1], self.width)  # type: ignore[return-value]

    def __len__(self) -> int:
        """Number of rows."""
        return prod(self.shape[:-1])

    @property
    def digest(self) -> str:
        """SHA-256 of what these rows are."""
        return digest(canonical([type(self).__name__, [rows.digest for rows in self.parts]]))


@dataclass(frozen=True)
class JoinedRows(_SeveralRows):
    """Rows of one block in several stores, one after the other. Images are numbered on.

    With `other_steps` parts may be of other steps, as many in each; then `steps` are those of the first."""

    other_steps: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for rows in self.parts[1:]:
            one, other = (f"{part.width} channels in {part.dtype}" for part in (self.parts[0], rows))
            if one != other:
                both = f"{_said(self.parts[0])} has {one}, {_said(rows)} {other}"
                raise StoreError(f"{both}: they cannot be read as one")

    def _may_differ(self, one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        return self.other_steps and len(one) == len(other)

    @property
    def block(self) -> str:
        """Where these rows were recorded."""
        return self.parts[0].block

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the parts' stores record of their runs; where those differ, as a merged store does."""
        runs = list({rows.shards.place: rows.provenance for rows in self.parts}.values())
        if all(run == runs[0] for run in runs):
            return runs[0]
        return {"merged": [{"provenance": run} for run in runs]}

    @property
    def samples(self) -> Sequence[int]:
        """Numbers of the images, from 0 over all parts."""
        return range(sum(len(rows.samples) for rows in self.parts))

    def filter(
        self,
        *,
        steps: int | Iterable[int] | None = None,
        branches: str | Iterable[str] | None = None,
        samples: Iterable[int] | slice | None = None,
    ) -> "JoinedRows":
        """As `Rows.filter`; `samples` are numbers over all parts."""
        parts = tuple(rows.filter(steps=steps, branches=branches) for rows in self.parts)
        if samples is not None:
            chosen = _chosen(samples, len(self.samples))
            ends = np.cumsum([0, *(len(rows.samples) for rows in self.parts)])
            some = [chosen[(chosen >= a) & (chosen < b)] - a for a, b in pairwise(ends)]
            parts = tuple(
                rows.filter(samples=[rows.samples[i] for i in mine])
                for rows, mine in zip(parts, some, strict=True)
                if len(mine)
            )
        return JoinedRows(parts, self.other_steps)

    def read(self, i: int) -> np.ndarray:
        """Updates of the i-th image, (step, branch, y, x, channel) float32."""
        i = self.samples[i]
        for rows in self.parts:
            if i < len(rows.samples):
                return rows.read(i)
            i -= len(rows.samples)
        raise IndexError(i)

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """`n` rows without repetition, as `Rows.sample`: of each part in proportion to its rows."""
        rng = np.random.default_rng([seed, 0x5B])
        lengths = [len(rows) for rows in self.parts]
        share = rng.multivariate_hypergeometric(lengths, min(n, sum(lengths)), method="marginals")
        some = np.concatenate([r.sample(int(k), seed) for r, k in zip(self.parts, share, strict=True) if k])
        return some[rng.permutation(len(some))]

    def batches(self, batch_size: int, **options: Unpack[BatchOptions]) -> Batches:
        """As `Rows.batches`, shuffled over all parts."""
        return batches_in_turn(self.parts, BatchOrder(batch_size, **options), self.digest)


@dataclass(frozen=True)
class AlignedRows(_SeveralRows):
    """Rows of several blocks, or of several stores, side by side: a row is what all parts hold of the same
    image, step, branch and place, one part's channels behind the other's (see `split`).

    Refused with StoreError: other steps, branches, grids, and images of other prompts or seeds. With
    `other_steps` parts may be of other steps, as many in each: the first beside the first of the other.
    """

    other_steps: bool = False
    alike: bool = False
    """Whether their images are known to be the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        first = self.parts[0]
        for rows in () if self.alike else self.parts[1:]:
            _refuse_other_images(first, rows)

    def _may_differ(self, one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        return self.other_steps and len(one) == len(other)

    @property
    def block(self) -> str:
        """The blocks, joined by `+`."""
        return "+".join(rows.block for rows in self.parts)

    @property
    def width(self) -> int:
        """Channels of all parts together."""
        return sum(rows.width for rows in self.parts)

    def split(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows (..., width) as one view for each part, (..., width of the part)."""
        return np.split(rows, np.cumsum([part.width for part in self.parts])[:-1], axis=-1)

    def filter(
        self,
        *,
        steps: int | Iterable[int] | None = None,
        branches: str | Iterable[str] | None = None,
        samples: Iterable[int] | slice | None = None,
    ) -> "AlignedRows":
        """As `Rows.filter`; `samples` are numbers from 0 of these rows' images."""
        parts = tuple(rows.filter(steps=steps, branches=branches) for rows in self.parts)
        if samples is not None:
            chosen = _chosen(samples, len(self.samples))
            parts = tuple(rows.filter(samples=[rows.samples[i] for i in chosen]) for rows in parts)
        return AlignedRows(parts, self.other_steps, alike=True)

    def read(self, i: int) -> np.ndarray:
        """Updates of the i-th image, (step, branch, y, x, width) float32."""
        return np.concatenate([rows.read(i) for rows in self.parts], axis=-1)

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """`n` rows without repetition, (n, width), as `Rows.sample`: the same rows of each part."""
        picks = self.parts[0].draw(n, seed)
        return np.concatenate([rows.take(picks) for rows in self.parts], axis=-1)

    def batches(self, batch_size: int, **options: Unpack[BatchOptions]) -> Batches:
        """As `Rows.batches`; a pool holds all parts' rows in `pool_bytes`."""
        order, of_parts = BatchOrder(batch_size, **options), [rows.units() for rows in self.parts]
        units = min(of_parts, key=len)  # those of the most images; others read theirs in pieces of these
        per_image, once = prod(self.shape[1:-1]), read_once(self.parts, order)

        def load(chosen: np.ndarray, used: Pool | None) -> Pool:
            some = units[chosen]
            starts = np.cumsum([0, *(some[:, 2] - some[:, 1])]) * per_image
            pools = []
            for rows, own in zip(self.parts, of_parts, strict=True):
                pieces, at = _pieces(some[:, 1:], own)
                pool = rows.new_pool(int(starts[-1]))
                begin = starts[at] + (pieces[:, 1] - some[at, 1]) * per_image
                rows.fill(pool, pieces, begin, once)
                pools.append(pool)
            return _PoolsSideBySide(tuple(pools))

        return Batches(
            order,
            unit_rows=(units[:, 2] - units[:, 1]) * per_image,
            load=load,
            width=self.width,
            pool_rows=max(1, order.pool_bytes // sum(rows.row_bytes for rows in self.parts)),
            identity=self.digest,
            window=window_of(self.parts, units[:, :1]),
        )


class _PoolsSideBySide(Pool):
    """The same rows of several parts."""

    def __init__(self, pools: tuple[Pool, ...]) -> None:
        super().__init__(pools[0].values, None, pools[0].dtype)
        object.__setattr__(self, "pools", pools)

    pools: tuple[Pool, ...]

    def holds(self, rows: int, width: int, dtype: str) -> bool:
        return False

    def take(self, rows: np.ndarray) -> np.ndarray:
        return np.concatenate([pool.take(rows) for pool in self.pools], axis=-1)


def _pieces(ranges: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranges [first, last) of images cut where units are: (pieces, 3) like units, and each one's range."""
    first = np.searchsorted(own[:, 2], ranges[:, 0], side="right")
    last = np.searchsorted(own[:, 1], ranges[:, 1], side="left")
    at = np.repeat(np.arange(len(ranges)), last - first)
    unit = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)] or [np.arange(0)])
    begin = np.maximum(own[unit, 1], ranges[at, 0])
    end = np.minimum(own[unit, 2], ranges[at, 1])
    return np.column_stack([own[unit, 0], begin, end]), at


def _refuse_other_images(one: Rows, other: Rows) -> None:
    """Raise StoreError unless two parts are of the same prompts, seeds and kept places, in the same order."""
    both = f"{_said(one)} and {_said(other)}"
    if len(one.samples) != len(other.samples):
        raise StoreError(
            f"{both} have {len(one.samples):,} and {len(other.samples):,} images: filter them first"
        )
    schemas = one.shards.schema, other.shards.schema
    if schemas[0].positions != schemas[1].positions or (
        schemas[0].blocks[one.block][:2] != schemas[1].blocks[other.block][:2]
    ):
        raise StoreError(f"{both} keep other places of an image")
    same = list(one.samples) == list(other.samples)
    if same and one.shards is other.shards:
        return
    _refuse_other_places(one, other)
    if same and _listed(one) == _listed(other):
        return
    stores = Store(one.shards), Store(other.shards)
    for i, j in zip(one.samples, other.samples, strict=True):
        if _made_of(stores[0].samples[i]) != _made_of(stores[1].samples[j]):
            raise StoreError(f"{both} differ in image {i}: another prompt or seed")


def _refuse_other_places(one: Rows, other: Rows) -> None:
    """Compare the kept places of up to 64 images, where only some are kept."""
    if one.shards.schema.positions is None or not len(one.samples):
        return
    some = np.unique(np.linspace(0, len(one.samples) - 1, 64).astype(int)).tolist()
    if not np.array_equal(one.positions_of(some), other.positions_of(some)):
        raise StoreError(f"{_said(one)} and {_said(other)} keep other places of an image")


def _listed(rows: Rows) -> list[Any]:
    """What a log says of a store's images: no shard need be opened to compare."""
    return [(e.start, e.stop, e.prompts, [number for number, _ in e.absent]) for e in rows.shards.entries]


def _made_of(sample: Sample) -> tuple[str, int]:
    return sample.prompt, sample.seed


def _chosen(samples: Iterable[int] | slice, count: int) -> np.ndarray:
    """Ascending numbers of images, of a slice or of numbers."""
    if isinstance(samples, slice):
        return np.arange(count)[samples]
    chosen = np.unique(np.fromiter((whole_number(i, "an image") for i in samples), np.int64))
    if len(chosen) and not 0 <= chosen[0] <= chosen[-1] < count:
        raise StoreError(f"image {chosen[-1]} is not among the {count:,} images of these rows")
    return chosen


def _said(rows: Rows) -> str:
    return f"{rows.block} of {rows.shards.place}"
