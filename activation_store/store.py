"""Reading a store: its images one by one, and the rows of a block."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self, overload

from activation_store.added_blocks import ADDED, difference
from activation_store.entries import Entry
from activation_store.errors import StoreError
from activation_store.locks import require_locks
from activation_store.moments import Moments
from activation_store.rows import Rows
from activation_store.samples import Sample, unpack, unpack_samples
from activation_store.schema import Schema
from activation_store.shard import blob
from activation_store.shard_cache import ShardCache
from activation_store.shards import Shards

#: Shards whose samples or thumbnails stay in memory once read.
_CACHED = 8


class Store:
    """A store as it was when opened: shards published later are not seen. Images are numbered from 0 in the
    order of the run, without the holes and the absent ones (`samples[i].index` is the number in the run).
    """

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self.path: Path | str = shards.path if shards.remote is None else shards.remote.url
        """Its folder or URL."""
        self.samples = Samples(len(self), shards.shard_of, lru_cache(_CACHED)(self._read_samples))
        self._thumbnails = lru_cache(_CACHED)(self._read_thumbnails)

    @classmethod
    def open(cls, path: str | os.PathLike, cache: ShardCache | None = None) -> Self:
        """Open the store in a folder, or at a URL of any protocol that fsspec knows.

        Of a store at a URL settings, logs and sums are read now, and shards when they are needed: `cache`
        keeps them on this disk (None: the user's, see `shard_cache`). Raises StoreError when there is none,
        or it is damaged or newer.
        """
        require_locks(path)
        return cls(Shards.open(path, cache))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.shards)

    @property
    def schema(self) -> Schema:
        """The settings."""
        return self.shards.schema

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The shards, by their first image."""
        return self.shards.entries

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks, those among them that were added later and are all there."""
        own = tuple(self.schema.blocks)
        return own + tuple(b for part in self.added if not self._why_apart(part) for b in part.schema.blocks)

    @cached_property
    def added(self) -> tuple["Store", ...]:
        """Stores of blocks that were added to this one (`added_blocks`), complete or not."""
        remote = self.shards.remote
        if remote is not None:
            return tuple(
                type(self).open(f"{remote.url}/{ADDED}/{name}", remote.cache) for name in remote.names(ADDED)
            )
        return tuple(
            type(self).open(path.parent) for path in sorted(Path(self.path).glob(f"{ADDED}/*/store.json"))
        )

    def _why_apart(self, part: "Store") -> str:
        return difference(self.entries, part.entries)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the run was: system, scheduler, weight hashes, seed and settings."""
        return self.schema.provenance

    @property
    def versions(self) -> list[Any]:
        """Software that wrote the store, as each rank noted it."""
        return list(self.shards.listing.versions)

    @property
    def absent(self) -> dict[int, str]:
        """Images (numbers in the run) that were made and have no updates, and why. They are not missing."""
        return {number: reason for entry in self.entries for number, reason in entry.absent}

    @property
    def digest(self) -> str:
        """SHA-256 of the settings and of all shards' digests: equal for equal contents, however written."""
        return self.shards.digest

    @property
    def identity(self) -> str:
        """Short name, hexadecimal, of what the store holds: the beginning of its digest."""
        return self.digest[:24]

    def __getitem__(self, block: str) -> Rows:
        """Rows of a block, all steps, branches and images."""
        if block not in self.schema.blocks:
            part = next((part for part in self.added if block in part.schema.blocks), None)
            if part is None:
                raise StoreError(f"{self.path} has no block '{block}'; it has {', '.join(self.blocks)}")
            if why := self._why_apart(part):
                raise StoreError(f"{block} was added to {self.path}, at {part.path}: {why}")
            return part[block]
        steps, branches = map(range, self.schema.shape(block, 1)[1:3])
        return Rows(self.shards, block, tuple(steps), tuple(branches), None)

    def thumbnail(self, i: int) -> bytes:
        """The small picture of image `i`, an encoded (WebP) file. Raises StoreError when none was kept."""
        data = self.thumbnail_or_empty(i)
        if not data:
            raise StoreError(f"{self.path} was collected without thumbnails")
        return data

    def thumbnail_or_empty(self, i: int) -> bytes:
        """Like `thumbnail`, but empty when none was kept."""
        shard, place = self.shards.shard_of(i)
        return self._thumbnails(shard)[place]

    def missing(self, total: int) -> list[tuple[int, int]]:
        """Ranges [start, stop) of images below `total` that the store does not hold."""
        ends = [0, *(entry.stop for entry in self.entries)]
        starts = [*(entry.start for entry in self.entries), total]
        holes = zip(ends, starts, strict=True)
        return [(end, min(start, total)) for end, start in holes if end < min(start, total)]

    def moments(self, block: str) -> Moments:
        """Statistics per (step, branch) over all images."""
        return self[block].shards.sums[block]

    def _read_samples(self, number: int) -> list[Sample]:
        with self.shards.shard(number) as file:
            return unpack_samples(*blob(file, "samples"))

    def _read_thumbnails(self, number: int) -> list[bytes]:
        with self.shards.shard(number) as file:
            return unpack(*blob(file, "thumbnails"))


class Samples(Sequence[Sample]):
    """The samples of a store, read shard by shard when asked for."""

    def __init__(
        self, count: int, shard_of: Callable[[int], tuple[int, int]], read: Callable[[int], list[Sample]]
    ) -> None:
        self._count, self.shard_of, self._read = count, shard_of, read

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, i: int) -> Sample: ...
    @overload
    def __getitem__(self, i: slice) -> list[Sample]: ...

    def __getitem__(self, i: int | slice) -> Sample | list[Sample]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(self._count))]
        shard, place = self.shard_of(i)
        return self._read(shard)[place]
