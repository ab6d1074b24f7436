"""Reading a store: its images one by one, and the rows of a block."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property, lru_cache, reduce
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any, Self, overload

import h5py
import numpy as np

from activation_store.chunks import ChunkIndex, ShardChunks
from activation_store.errors import StoreError
from activation_store.file_reader import FileReader
from activation_store.files import JSON, canonical, digest, read_json
from activation_store.manifest import SHARDS, Entry, manifest_paths, read_manifests
from activation_store.moments import Moments, empty
from activation_store.rows import Rows
from activation_store.samples import Sample, unpack, unpack_samples
from activation_store.schema import Schema
from activation_store.shard import Version, blob, damaged, naming_damage, open_shard, version_of

#: Shards whose samples or thumbnails stay in memory once read.
_CACHED = 8


class Store:
    """A store as it was when opened: shards published later are not seen. Images are numbered from 0 in the
    order of the run, without the holes (`samples[i].index` is the number in the run).
    """

    def __init__(self, path: str | os.PathLike, schema: Schema, entries: Sequence[Entry]) -> None:
        self.path, self.schema, self.entries = Path(path), schema, tuple(entries)
        self.offsets = np.cumsum([0, *(entry.samples for entry in self.entries)], dtype=np.int64)
        """Number of the first image of each shard, and the number of images."""
        self._checked: set[Version] = set()
        self._places: dict[int, tuple[Version, dict[str, ChunkIndex]]] = {}
        self._opening = Lock()  # HDF5 lets one thread in at a time; two at its door take three times as long
        self.samples = Samples(len(self), self.shard_of, lru_cache(_CACHED)(self._read_samples))
        self._thumbnails = lru_cache(_CACHED)(self._read_thumbnails)
        self._moments = lru_cache(16)(self._merge_moments)

    @classmethod
    def open(cls, path: str | os.PathLike) -> Self:
        """Open the store in a folder. Raises StoreError when there is none, or it is damaged or newer."""
        folder = Path(path)
        schema = read_schema(folder)
        return cls(folder, schema, read_manifests(folder, schema))

    def __len__(self) -> int:
        """Number of images."""
        return int(self.offsets[-1])

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks."""
        return tuple(self.schema.blocks)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the run was: system, scheduler, weight hashes, seed and settings."""
        return self.schema.provenance

    @property
    def versions(self) -> list[Any]:
        """Software that wrote the store, as each rank noted it."""
        return [read_json(path, limit=1 << 30).get("versions") for path in manifest_paths(self.path)]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the settings and of all shards' digests: equal for equal contents, however written."""
        content: JSON = [[entry.start, entry.stop, entry.digest] for entry in self.entries]
        return digest(canonical([self.schema.to_json(), content]))

    @property
    def identity(self) -> str:
        """Short name, hexadecimal, of what the store holds: the beginning of its digest."""
        return self.digest[:24]

    def __getitem__(self, block: str) -> Rows:
        """Rows of a block, all steps, branches and images."""
        if block not in self.schema.blocks:
            raise StoreError(f"{self.path} has no block '{block}'; it has {', '.join(self.blocks)}")
        steps, branches = range(len(self.schema.steps)), range(len(self.schema.branches))
        return Rows(self, block, tuple(steps), tuple(branches), None)

    def thumbnail(self, i: int) -> bytes:
        """The small picture of image `i`, an encoded (WebP) file. Raises StoreError when none was kept."""
        data = self.thumbnail_or_empty(i)
        if not data:
            raise StoreError(f"{self.path} was collected without thumbnails")
        return data

    def thumbnail_or_empty(self, i: int) -> bytes:
        """Like `thumbnail`, but empty when none was kept."""
        shard, offset = self.shard_of(i)
        return self._thumbnails(shard)[offset]

    def missing(self, total: int) -> list[tuple[int, int]]:
        """Ranges [start, stop) of images below `total` that the store does not hold."""
        ends = [0, *(entry.stop for entry in self.entries)]
        starts = [*(entry.start for entry in self.entries), total]
        holes = zip(ends, starts, strict=True)
        return [(end, min(start, total)) for end, start in holes if end < min(start, total)]

    def moments(self, block: str) -> Moments:
        """Statistics per (step, branch) over all images, merged from the shards' own in order."""
        return self._moments(block)

    def shard(self, number: int) -> AbstractContextManager[h5py.File]:
        """Context manager of shard `number`, open for reading and checked (an `h5py.File`)."""
        entry = self.entries[number]
        path = self.path / SHARDS / entry.name
        return open_shard(path, self.schema, entry.samples, entry.bytes, self._checked)

    @contextmanager
    def chunks(self, number: int, once: bool = False) -> Iterator[ShardChunks]:
        """Shard `number`'s file, open for reading and checked, and where the chunks of BLOCK/values (and
        BLOCK/scale) lie in it. HDF5 opens a shard once, and again when it has changed. `once`: see
        `FileReader`.
        """
        path = self.path / SHARDS / self.entries[number].name
        version, places = self._places.get(number, (None, {}))
        with naming_damage(path), ExitStack() as opened:
            if version is None or (descriptor := _open(path, version, opened)) is None:
                with self._opening, self.shard(number) as file:
                    names = [n for b in self.blocks for n in (f"{b}/values", f"{b}/scale") if n in file]
                    places = {name: ChunkIndex.of(file[name]) for name in names}
                    descriptor = os.dup(file.id.get_vfd_handle())
                opened.callback(os.close, descriptor)
                self._places[number] = version_of(os.fstat(descriptor)), places
            yield FileReader.read_once(descriptor, opened) if once else FileReader(descriptor), places

    def _merge_moments(self, block: str) -> Moments:
        groups, width = self.schema.shape(block, 1)[1:3], self.schema.blocks[block][2]
        parts = (self._read_moments(shard, block) for shard in range(len(self.entries)))
        return reduce(Moments.__add__, parts, empty(groups, width))

    def shard_of(self, i: int) -> tuple[int, int]:
        """The shard of image `i`, and its number there. Raises IndexError where there is no such image."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"image {i} of a store with {len(self)}")
        i %= len(self)
        shard = int(np.searchsorted(self.offsets, i, side="right")) - 1
        return shard, i - int(self.offsets[shard])

    def _read_samples(self, number: int) -> list[Sample]:
        with self.shard(number) as file:
            return unpack_samples(*blob(file, "samples"))

    def _read_thumbnails(self, number: int) -> list[bytes]:
        with self.shard(number) as file:
            return unpack(*blob(file, "thumbnails"))

    def _read_moments(self, number: int, block: str) -> Moments:
        entry = self.entries[number]
        with self.shard(number) as file:
            mean, m2, norms = (file[f"{block}/{name}"][()] for name in ("mean", "m2", "norms"))
        count = entry.samples * prod(self.schema.grid(block))
        if (norms.sum(-1) != count).any() or not (m2 >= 0).all():
            path = self.path / SHARDS / entry.name
            raise damaged(path, f"its statistics of {block} are not of {count} rows")
        return Moments(count, mean, m2, norms)


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
        shard, offset = self.shard_of(i)
        return self._read(shard)[offset]


def _open(path: Path, version: Version, opened: ExitStack) -> int | None:
    """Descriptor of a file, for as long as `opened` is; None if it is not as it was."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    opened.callback(os.close, descriptor)
    return descriptor if version_of(os.fstat(descriptor)) == version else None


def read_schema(folder: Path) -> Schema:
    """Settings of the store in a folder. Raises StoreError when there is none."""
    try:
        return Schema.from_json(read_json(folder / "store.json"), str(folder / "store.json"))
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"there is no activation store at {folder} (no store.json in it)") from None
