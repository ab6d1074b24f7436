"""Writing one shard, image by image: what comes goes to its file in whole chunks and is counted.

The file is a function of the images alone, in their order: batches, threads and stops change no byte of it.
Memory: the chunks being filled and up to `IN_FLIGHT` bytes of those on their way to the disk.
"""

import os
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Executor, Future, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import h5py
import numpy as np

from activation_store.chunks import write_chunk
from activation_store.entries import Entry
from activation_store.moments import Moments, count_channels, empty, moments_of
from activation_store.new_hdf5 import HDF5Disk, new_hdf5
from activation_store.number_formats import decode
from activation_store.samples import Sample, pack, pack_samples, unpack, unpack_samples
from activation_store.schema import Schema
from activation_store.shard import CHUNK_BYTES, Layout, blob, layout

#: Bytes of full chunks that may wait for the disk.
IN_FLIGHT = 64 << 20

#: Bytes after which the disk is set to work: else it idles until the shard is full, and is waited for then.
SYNCED = 32 << 20

#: Places of some steps and of some branches on a block's axes.
Axes = tuple[list[int], list[int]]


@dataclass(frozen=True)
class EncodedImage:
    """One image as a shard holds it; an absent one (`sample.absent`) has no values."""

    sample: Sample
    thumbnail: bytes = b""
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Block -> (steps, branches, y, x, channels), stored type."""
    scales: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Block -> (steps, branches, y, x) float32, in formats that have them."""
    positions: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Block -> (P,), when positions are sampled."""


class ShardWriter:
    """A shard's file that is being written; not in its place yet."""

    def __init__(
        self, path: Path, schema: Schema, start: int, stop: int, disk: Executor, sync: Executor
    ) -> None:
        """`disk`: its one thread writes the chunks; that of `sync` waits for them to be on the disk. OSError
        when the file cannot be made."""
        self.path, self.schema, self.start, self.stop = path, schema, start, stop
        self._samples: list[Sample] = []
        self._thumbnails: list[bytes] = []
        self._disk, self._in_flight = disk, deque[tuple[Future, int]]()
        self._sync, self._syncing, self._unsynced = sync, Future[None](), 0
        self._syncing.set_result(None)
        self.room = 0
        """Images that it was begun for, once it is cut short."""
        self._layout = layout(schema, stop - start)
        groups = {block: schema.shape(block, 1)[1:3] for block in schema.blocks}
        none = {block: empty(groups[block], shape[2]) for block, shape in schema.blocks.items()}
        self._channels = {block: moments.channels for block, moments in none.items()}
        self._moments = {block: replace(moments, channels=None) for block, moments in none.items()}
        self._arrays = {
            name: np.zeros(plan.shape, plan.dtype)
            for name, plan in self._layout.items()
            if plan.shape is not None and name.endswith(("/scale", "/positions"))
        }
        self._opened, self._written = ExitStack(), HDF5Disk()
        self._file = self._opened.enter_context(new_hdf5(path, ("v110", "v110"), self._written))
        self._chunks = {block: self._begin_values(block) for block in schema.blocks}

    @property
    def count(self) -> int:
        """Images so far."""
        return len(self._samples)

    @property
    def full(self) -> bool:
        """Whether every image has come."""
        return self.count == self.stop - self.start

    @property
    def samples(self) -> list[Sample]:
        """Of the images so far."""
        return self._samples

    @property
    def absent(self) -> tuple[tuple[int, str], ...]:
        """Numbers of absent images, and why they are."""
        return tuple((s.index, s.absent) for s in self._samples if s.absent is not None)

    def add(self, image: EncodedImage) -> None:
        """Add the next image. OSError when the disk refused what came before."""
        at = self.count
        for block in self.schema.blocks:
            values, scale = image.values.get(block), image.scales.get(block)
            if values is not None:
                self._count(block, values, scale, image.sample.index)
            if scale is not None:
                self._arrays[f"{block}/scale"][at] = scale
            if block in image.positions:
                self._arrays[f"{block}/positions"][at] = image.positions[block]
            if (filled := self._chunks[block].add(values)) is not None:
                self._submit(block, *filled)
        self._samples.append(image.sample)
        self._thumbnails.append(image.thumbnail)

    def cut(self) -> None:
        """Make it a shard of the images so far, at least one, in place: nothing is copied. OSError when the
        disk refused."""
        self._flush()
        self.room, self.stop = self.stop - self.start, self.start + self.count
        self._layout = layout(self.schema, self.count, room=self.room)
        for block in self.schema.blocks:
            self._file[f"{block}/values"].resize(self.count, axis=0)
        self._arrays = {name: array[: self.count] for name, array in self._arrays.items()}

    def finish(self) -> dict[str, Moments]:
        """Write what is left and close the full shard's file; its statistics by block. OSError when the disk
        refused."""
        self._flush()
        moments = {b: replace(self._moments[b], channels=self._channels[b]) for b in self.schema.blocks}
        data = dict(self._arrays)
        for block, some in moments.items():
            data |= {f"{block}/{name}": getattr(some, name) for name in ("mean", "m2", "norms", "channels")}
        data["samples"], data["samples_ends"] = pack_samples(self._samples)
        data["thumbnails"], data["thumbnails_ends"] = pack(self._thumbnails)
        for name, plan in self._layout.items():
            if not name.endswith("/values"):
                self._write(name, plan, data[name])
        self._opened.close()
        return moments

    def abandon(self) -> None:
        """Close the file, and remove it."""
        for future, _ in self._in_flight:
            future.cancel()
        wait([*(future for future, _ in self._in_flight), self._syncing])
        self._in_flight.clear()
        with suppress(OSError):
            self._opened.close()
        self.path.unlink(missing_ok=True)

    def images(self) -> Iterator[EncodedImage]:
        """Every image so far, from the file; none can be added any more. OSError when the disk refused."""
        self._flush()
        self._opened.close()
        with h5py.File(self.path, "r", locking=False) as file:
            kept = _Kept(self._samples, self._thumbnails, self._arrays)
            yield from _images(file, list(self.schema.blocks), kept)

    def _begin_values(self, block: str) -> "_Chunks":
        plan = self._layout[f"{block}/values"]
        rule = {"chunks": plan.chunk, "fletcher32": True, "track_times": False}
        self._file.create_dataset(f"{block}/values", plan.shape, plan.dtype, **rule)
        return _Chunks(plan)

    def _count(self, block: str, values: np.ndarray, scale: np.ndarray | None, number: int) -> None:
        stored = decode(values, scale, self.schema.dtype)
        rows = stored.reshape(*stored.shape[:2], -1, stored.shape[-1])
        channels = self._channels[block]
        assert channels is not None
        count_channels(rows, channels, number)
        self._moments[block] += moments_of(rows, overwrite=True)  # in place: it stays in the cache

    def _submit(self, block: str, first: int, chunks: np.ndarray) -> None:
        waiting = sum(size for _, size in self._in_flight)
        while self._in_flight and (waiting > IN_FLIGHT or self._in_flight[0][0].done()):
            future, size = self._in_flight.popleft()
            future.result()
            waiting -= size
        self._in_flight.append((self._disk.submit(self._put, block, first, chunks), chunks.nbytes))

    def _put(self, block: str, first: int, chunks: np.ndarray) -> None:
        dataset = self._file[f"{block}/values"]
        for step, branch in np.ndindex(chunks.shape[:2]):
            write_chunk(dataset, (first, step, branch, 0, 0, 0), chunks[step, branch])
        self._chunks[block].free.append(chunks)
        self._raise()
        self._unsynced += chunks.nbytes
        if self._unsynced >= SYNCED and self._syncing.done():
            self._syncing, self._unsynced = self._sync.submit(os.fdatasync, self._written.descriptor), 0

    def _flush(self) -> None:
        for block, chunks in self._chunks.items():
            if (rest := chunks.rest()) is not None:
                self._submit(block, *rest)
        while self._in_flight:
            self._in_flight.popleft()[0].result()
        self._syncing.result()

    def _write(self, name: str, plan: Layout, array: np.ndarray) -> None:
        chunk = plan.chunk or (min(len(array), CHUNK_BYTES),)
        rule = {"chunks": chunk, "fletcher32": True, "track_times": False, "maxshape": plan.most}
        self._file.create_dataset(name, data=array, dtype=plan.dtype, **rule)

    def _raise(self) -> None:
        if self._written.error is not None:
            raise self._written.error


def stored_images(
    file: h5py.File,
    schema: Schema,
    entry: Entry,
    places: Collection[int] | None = None,
    axes: Mapping[str, Axes] | None = None,
) -> Iterator[EncodedImage]:
    """Images of a published shard, as they lie in the file (see `shard.open_shard`): all, or those at some
    `places`, of some blocks and of some steps and branches of each (`axes`)."""
    arrays = {
        name: file[name][()]
        for name in layout(schema, entry.samples)
        if name.endswith(("/scale", "/positions"))
    }
    kept = _Kept(unpack_samples(*blob(file, "samples")), unpack(*blob(file, "thumbnails")), arrays)
    yield from _images(file, list(axes or schema.blocks), kept, places, axes)


@dataclass(frozen=True)
class _Kept:
    """What is in memory of a shard's images."""

    samples: list[Sample]
    thumbnails: list[bytes]
    arrays: Mapping[str, np.ndarray]


def _images(
    file: h5py.File,
    blocks: Collection[str],
    kept: _Kept,
    places: Collection[int] | None = None,
    axes: Mapping[str, Axes] | None = None,
) -> Iterator[EncodedImage]:
    """Images whose values are read from a file, a chunk of each block at a time."""
    ahead: dict[str, tuple[int, np.ndarray]] = {}

    def of(block: str, at: int) -> np.ndarray:
        dataset = file[f"{block}/values"]
        first = at - at % dataset.chunks[0]
        if block not in ahead or ahead[block][0] != first:
            some = slice(first, min(first + dataset.chunks[0], len(kept.samples)))
            read = dataset[some] if axes is None else dataset[some, axes[block][0]][:, :, axes[block][1]]
            ahead[block] = first, read
        return ahead[block][1][at - first]

    def cut(block: str, array: np.ndarray) -> np.ndarray:
        return array if axes is None else array[axes[block][0]][:, axes[block][1]]

    for at in range(len(kept.samples)) if places is None else sorted(places):
        sample, arrays = kept.samples[at], kept.arrays
        present = [] if sample.absent is not None else blocks
        yield EncodedImage(
            sample,
            kept.thumbnails[at],
            {block: of(block, at) for block in present},
            {b: cut(b, arrays[f"{b}/scale"][at]) for b in present if f"{b}/scale" in arrays},
            {b: arrays[f"{b}/positions"][at] for b in blocks if f"{b}/positions" in arrays},
        )


class _Chunks:
    """The chunks of a block's `values` that are being filled: some images' for every step and branch."""

    def __init__(self, plan: Layout) -> None:
        assert plan.shape is not None
        assert plan.chunk is not None
        self._groups, self._dtype, self._chunk = plan.shape[1:3], plan.dtype, plan.chunk
        self._bytes = prod(plan.chunk) * plan.dtype.itemsize
        self._first, self._at = 0, 0
        self.free: list[np.ndarray] = []
        """Memory of chunks that are written, to be filled again: new memory would cost more."""
        self._filling = self._new()

    def add(self, values: np.ndarray | None) -> tuple[int, np.ndarray] | None:
        """Put the next image's values (steps, branches, y, x, channels) in, zeros for None. When the chunks
        are full: their first image, and (steps, branches, bytes and 4 more) uint8."""
        for group in np.ndindex(*self._groups):
            chunk = self._filling[group][:-4].view(self._dtype).reshape(self._chunk)
            chunk[self._at, 0, 0] = 0 if values is None else values[group]
        self._at += 1
        return self.rest() if self._at == self._chunk[0] else None

    def rest(self) -> tuple[int, np.ndarray] | None:
        """What is in chunks that are not full, with zeros behind; None when there is nothing."""
        if not self._at:
            return None
        for group in np.ndindex(*self._groups):
            self._filling[group][:-4].view(self._dtype).reshape(self._chunk)[self._at :] = 0
        filled = self._first, self._filling
        self._first, self._at, self._filling = self._first + self._at, 0, self._new()
        return filled

    def _new(self) -> np.ndarray:
        return self.free.pop() if self.free else np.empty((*self._groups, self._bytes + 4), np.uint8)
