"""The shards of a store, open for reading: where an image lies, chunks of its updates, sums of statistics."""

import os
import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Generic, Self, TypeVar

import h5py
import numpy as np

from activation_store.batches import Pool
from activation_store.chunks import ChunkIndex, ShardChunks
from activation_store.entries import Entry, shard_path
from activation_store.file_reader import FileReader
from activation_store.files import JSON, canonical, digest
from activation_store.listing import Listing, read_listing, read_settings
from activation_store.moments import Moments
from activation_store.number_formats import NUMBER_FORMATS
from activation_store.remote_store import RemoteStore, is_url
from activation_store.schema import Schema
from activation_store.shard import Version, chunk_samples, naming_damage, open_shard, read_moments, version_of
from activation_store.shard_cache import ShardCache
from activation_store.store_statistics import LogStatistics, Sums, statistics_path

Key = TypeVar("Key")
Value = TypeVar("Value")

#: Bytes, at most, that are remembered of where chunks lie; a shard that is forgotten is asked again.
INDEX_BYTES = 256 << 20

#: Bytes, at most, of chunks that were read image by image and may be asked for again (one chunk at least).
RECENT_BYTES = 64 << 20


@dataclass(frozen=True)
class ChunkGroup:
    """What is read together: some images of one chunk, for some steps and branches (places on the axes)."""

    shard: int
    block: str
    images: np.ndarray
    """Places in the shard, ascending, all in one chunk."""
    steps: tuple[int, ...]
    branches: tuple[int, ...]


class Shards:
    """The shards of a store as it was when opened: those published later are not seen.

    Images are numbered from 0 in the order of the run, without holes and without absent images.
    """

    def __init__(
        self, path: Path, schema: Schema, listing: Listing, remote: RemoteStore | None = None
    ) -> None:
        """`path`: the store's folder, or one with the lists of a store that is `remote`."""
        self.path, self.schema, self.listing, self.remote = path, schema, listing, remote
        self.entries = listing.entries
        self.offsets = np.cumsum([0, *(entry.present for entry in self.entries)], dtype=np.int64)
        """Number of the first image of each shard, and the number of images."""
        self._checked: set[Version] = set()
        self._indices = _Recent[int, tuple[Version, dict[str, ChunkIndex]]](INDEX_BYTES)
        self._chunks = _Recent[tuple, Pool](RECENT_BYTES)
        self._opening = Lock()  # HDF5 lets one thread in at a time; two at its door take three times as long

    @classmethod
    def open(cls, path: str | os.PathLike, cache: ShardCache | None = None) -> Self:
        """Those of the store in a folder, or at a URL, whose shards `cache` keeps. Raises StoreError when
        there is none, or it is damaged or newer."""
        if not is_url(path):
            schema, version = read_settings(folder := Path(path))
            return cls(folder, schema, read_listing(folder, schema, version))
        remote = RemoteStore(str(path).rstrip("/"), cache or ShardCache())
        with ExitStack() as failed:
            folder = Path(tempfile.mkdtemp(prefix="unbox-store-"))
            failed.callback(shutil.rmtree, folder)
            remote.fetch_lists(folder)
            schema, version = read_settings(folder)
            opened = cls(folder, schema, read_listing(folder, schema, version), remote)
            failed.pop_all()
        weakref.finalize(opened, shutil.rmtree, folder, ignore_errors=True)
        return opened

    @property
    def place(self) -> str:
        """The store's folder or URL."""
        return str(self.path) if self.remote is None else self.remote.url

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens it for itself, as it was: locks and open files stay here."""
        sums = self.sums if self.remote is not None else None  # their file is this object's own
        return _restored, (type(self), self.path, self.schema, self.listing, self.remote, sums)

    def __len__(self) -> int:
        """Number of images."""
        return int(self.offsets[-1])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the settings and of all shards' digests: equal for equal contents, however written."""
        content: JSON = [[entry.start, entry.stop, entry.digest] for entry in self.entries]
        return digest(canonical([self.schema.to_json(), content]))

    @cached_property
    def sums(self) -> Sums:
        """Statistics by block, per (step, branch) over all images. Opens only shards that no file of sums
        has yet: a few, or all of a store of version 1."""
        total, left = LogStatistics(self.schema), set(self.entries)
        for log in self.listing.logs:
            own = [entry for entry in dict.fromkeys(log.entries) if entry in left]
            found = LogStatistics.read(statistics_path(log.path), self.schema, own)
            found.catch_up(own, self._read_moments)
            total.sums = {block: total.sums[block] + some for block, some in found.total().items()}
            left.difference_update(own)
        for entry in self.entries if not self.listing.logs else ():
            some = self._read_moments(entry)
            total.sums = {block: total.sums[block] + some[block] for block in some}
        return total.sums

    def shard_of(self, i: int) -> tuple[int, int]:
        """The shard of image `i`, and its place there. Raises IndexError where there is no such image."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"image {i} of a store with {len(self)}")
        shard, place = self.places(np.array([i % len(self)]))
        return int(shard[0]), int(place[0])

    def places(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shards of images (their numbers here), and their places there: absent ones lie between."""
        shard = np.searchsorted(self.offsets, images, side="right") - 1
        place = images - self.offsets[shard]
        for number in self._with_absent[np.isin(self._with_absent, shard)]:
            entry, here = self.entries[number], shard == number
            away = [image - entry.start for image, _ in entry.absent]
            place[here] = np.delete(np.arange(entry.samples), away)[place[here]]
        return shard, place

    def chunk_samples(self, block: str) -> np.ndarray:
        """Images in one chunk of a block, of each shard."""
        sizes, of = np.unique([entry.laid_out for entry in self.entries], return_inverse=True)
        return np.array([chunk_samples(self.schema, block, int(n)) for n in sizes], np.int64)[of]

    def shard(self, number: int) -> AbstractContextManager[h5py.File]:
        """Context manager of shard `number`, open for reading and checked (an `h5py.File`)."""
        return self._open_entry(self.entries[number])

    @contextmanager
    def _open_entry(self, entry: Entry) -> Iterator[h5py.File]:
        with self.file(entry) as path, open_shard(path, self.schema, entry, self._checked) as file:
            yield file

    def file(self, entry: Entry) -> AbstractContextManager[Path]:
        """Context manager of a shard's file on this disk; one that lies elsewhere is fetched, and stays while
        it is open."""
        if self.remote is not None:
            return self.remote.shard(self.schema, entry)
        return nullcontext(shard_path(self.path, self.schema, entry))

    def drop(self, entry: Entry) -> None:
        """Forget what was fetched of a shard that lies elsewhere, and will not be read again."""
        if self.remote is not None:
            self.remote.cache.drop(entry)

    @contextmanager
    def chunks(self, number: int, once: bool = False) -> Iterator[ShardChunks]:
        """Shard `number`'s file, open for reading and checked, and where the chunks of BLOCK/values (and
        BLOCK/scale) lie in it. HDF5 opens a shard once, and again when it has changed. `once`: see
        `FileReader`.
        """
        known = self._indices.get(number)
        with self.file(self.entries[number]) as path, naming_damage(path), ExitStack() as opened:
            if known is None or (descriptor := _open(path, known[0], opened)) is None:
                with self._opening, self.shard(number) as file:
                    blocks = self.schema.blocks
                    names = [n for b in blocks for n in (f"{b}/values", f"{b}/scale") if n in file]
                    indices = {name: ChunkIndex.of(file[name]) for name in names}
                    descriptor = os.dup(file.id.get_vfd_handle())
                opened.callback(os.close, descriptor)
                known = version_of(os.fstat(descriptor)), indices
                self._indices.put(number, known, sum(500 + i.offsets.nbytes for i in indices.values()))
            yield FileReader.read_once(descriptor, opened) if once else FileReader(descriptor), known[1]

    def read(self, chunks: ShardChunks, group: ChunkGroup, into: Pool) -> None:
        """Read a group from its open shard (`chunks`) into the memory of as many encoded rows."""
        shape = self.schema.shape(group.block, len(group.images))
        shape = (shape[0], len(group.steps), len(group.branches), *shape[3:])
        self._read_dataset(chunks, "values", group, into.values.reshape(shape))
        if into.scale is not None:
            self._read_dataset(chunks, "scale", group, into.scale.reshape(shape[:-1]))

    def recent(self, shard: int, block: str, chunk: int, steps: tuple, branches: tuple) -> Pool:
        """All images of one chunk (rows encoded), read, or as they were read a moment ago."""
        key = (shard, block, chunk, steps, branches)
        if (pool := self._chunks.get(key)) is not None:
            return pool
        samples = self.entries[shard].samples
        together = chunk_samples(self.schema, block, self.entries[shard].laid_out)
        images = np.arange(chunk * together, min((chunk + 1) * together, samples))
        group = ChunkGroup(shard, block, images, steps, branches)
        y, x, width = self.schema.shape(block, 1)[3:]
        pool = new_pool(len(images) * len(steps) * len(branches) * y * x, width, self.schema.dtype)
        with self.chunks(shard) as opened:
            self.read(opened, group, pool)
        self._chunks.put(key, pool, pool.values.nbytes)
        return pool

    def _read_dataset(self, chunks: ShardChunks, name: str, group: ChunkGroup, out: np.ndarray) -> None:
        """One chunk for each step and branch, without a copy between where all of it is wanted in a row."""
        reader, place = chunks[0], chunks[1][f"{group.block}/{name}"]
        together, rest = place.chunk[0], (0,) * (place.offsets.ndim - 3)
        first = int(group.images[0]) // together
        whole = len(group.images) == together and out.shape[1:3] == (1, 1)
        chunk = out if whole else np.empty(place.chunk, out.dtype)
        for i, step in enumerate(group.steps):
            for j, branch in enumerate(group.branches):
                place.read(reader, (first, step, branch, *rest), chunk)
                if not whole:
                    out[:, i, j] = chunk[group.images - first * together, 0, 0]

    @cached_property
    def _with_absent(self) -> np.ndarray:
        return np.array([k for k, entry in enumerate(self.entries) if entry.absent], np.int64)

    def _read_moments(self, entry: Entry) -> dict[str, Moments]:
        with self._open_entry(entry) as file:
            return {block: read_moments(file, self.schema, entry, block) for block in self.schema.blocks}


def _restored(
    kind: type[Shards],
    path: Path,
    schema: Schema,
    listing: Listing,
    remote: RemoteStore | None,
    sums: Sums | None,
) -> Shards:
    """What `Shards.__reduce__` took apart."""
    shards = kind(path, schema, listing, remote)
    if sums is not None:
        vars(shards)["sums"] = sums
    return shards


def new_pool(rows: int, width: int, dtype: str) -> Pool:
    """New memory for encoded rows."""
    encoding = NUMBER_FORMATS[dtype]
    scale = np.empty(rows, np.float32) if encoding.scale_bytes else None
    return Pool(np.empty((rows, width), encoding.stored), scale, dtype)


@dataclass
class _Recent(Generic[Key, Value]):
    """What was used last, up to so many bytes, and one thing at least."""

    limit: int
    _kept: "OrderedDict[Key, tuple[Value, int]]" = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: Lock = field(default_factory=Lock)

    def get(self, key: Key) -> Value | None:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Key, value: Value, size: int) -> None:
        with self._lock:
            self._bytes += size - self._kept.pop(key, (None, 0))[1]
            self._kept[key] = value, size
            while self._bytes > self.limit and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1][1]


def _open(path: Path, version: Version, opened: ExitStack) -> int | None:
    """Descriptor of a file, for as long as `opened` is; None if it is not as it was."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    opened.callback(os.close, descriptor)
    return descriptor if version_of(os.fstat(descriptor)) == version else None
