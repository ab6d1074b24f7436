"""Writing a store: a rank fills one shard after another; each is published whole or not at all.

The manifest is written once a shard, when the shard's file is in its place (`Writer._commit_to_manifest`).
"""

import json
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from activation_store.errors import StoreError
from activation_store.files import JSON, canonical, digest, publish_file, read_json, sweep, write_json
from activation_store.locks import holder, lock
from activation_store.manifest import (
    SHARDS,
    Entry,
    manifest_path,
    read_manifest,
    read_manifests,
    write_manifest,
    writer_tag,
)
from activation_store.moments import empty, moments_of
from activation_store.number_formats import decode, encode
from activation_store.samples import Sample, pack, pack_samples, prompts_digest
from activation_store.schema import Schema
from activation_store.shard import layout, write_shard

#: Shards being published at once: while one is digested or waits for the disk, the other is laid out.
PUBLISHING = 2


class Writer:
    """Writes the shards of one rank; a context manager that holds the rank's lock.

    A shard holds the images [start, stop) of the run, start a multiple of `schema.shard_samples`, and
    belongs to rank (start / shard_samples) % world. What it contains depends on its images alone, so ranks,
    interruptions and resuming change nothing. A shard is published in the background while the next one is
    filled; memory: at most three shards.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        schema: Schema,
        *,
        rank: int = 0,
        world: int = 1,
        versions: Mapping[str, JSON] | None = None,
    ) -> None:
        if not 0 <= rank < world:
            raise StoreError(f"rank {rank} of {world}: ranks count from 0 to {world - 1}")
        self.path, self.schema, self.rank, self.world = Path(path), schema, rank, world
        self.versions = dict(versions or {})
        self._locks = ExitStack()
        self._pending: deque[Future] = deque()
        self._manifest_lock = threading.Lock()
        self._used: list[dict[str, np.ndarray]] = []
        """Arrays of published shards, to be filled again: new memory would cost more than what goes in."""

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._locks.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.flush()
        except Exception:
            if error is None:  # else the first error is the one to show
                raise
        finally:
            self._locks.close()

    def owns(self, start: int) -> bool:
        """Whether the shard that begins at image `start` is this rank's to write."""
        return (start // self.schema.shard_samples) % self.world == self.rank

    def has(self, start: int, samples: Sequence[Sample]) -> bool:
        """Whether the store holds these images, which begin a shard at `start`.

        Raises StoreError when it holds others in their place: the run would go on with other prompts or
        seeds.
        """
        entry = self._entries.get(start)
        if entry is None:
            return False
        common = min(entry.samples, len(samples))
        if common == entry.samples and prompts_digest(samples[:common]) != entry.prompts:
            raise StoreError(
                f"{self.path} holds other prompts or seeds at {start}..{entry.stop - 1} than are given now; "
                "go on with the prompts and the seed it was begun with, or choose another folder"
            )
        return entry.samples >= len(samples)

    @contextmanager
    def shard(self, start: int, stop: int) -> Iterator["ShardBuffer"]:
        """Fill the shard of images [start, stop); published in the background when the block ends well."""
        size = self.schema.shard_samples
        if start % size or not start < stop <= start + size or not self.owns(start):
            rank = f"rank {self.rank} of {self.world}"
            raise StoreError(f"images {start}..{stop - 1} are no shard of {rank} (size {size})")
        filling = ShardBuffer(self.schema, start, stop, self._used.pop() if self._used else None)
        yield filling
        filling.require_full()
        if len(self._pending) == PUBLISHING:
            self._pending.popleft().result()
        self._pending.append(self._publisher.submit(self._publish, filling))

    def flush(self) -> None:
        """Wait until every finished shard is committed. Raises StoreError when one could not be written."""
        wait(self._pending)
        while self._pending:
            self._pending.popleft().result()

    def _open(self) -> None:
        try:
            (self.path / SHARDS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot write a store at {self.path}: {error.strerror}") from error
        if not os.access(self.path, os.W_OK) or not os.access(self.path / SHARDS, os.W_OK):
            raise StoreError(f"cannot write a store at {self.path}: the folder is read-only")
        self._locks.enter_context(lock(self.path / "store.lock", shared=True))
        with lock(self.path / "setup.lock", wait=True):
            self._refuse_other_worlds()
            rank_lock = self.path / f"{writer_tag(self.rank)}.lock"
            self._locks.enter_context(lock(rank_lock, note={"rank": self.rank, "world": self.world}))
            self._settle_schema()
        for folder in (self.path, self.path / SHARDS):
            sweep(folder, writer_tag(self.rank))
        self._entries = {entry.start: entry for entry in read_manifests(self.path, self.schema)}
        path = manifest_path(self.path, self.rank)
        self._listed = {e.start: e for e in read_manifest(path, self.schema)} if path.exists() else {}
        self._publisher = self._locks.enter_context(ThreadPoolExecutor(PUBLISHING, "unbox-publish"))

    def _refuse_other_worlds(self) -> None:
        for path in self.path.glob("writer-*.lock"):
            note = holder(path)
            if note is not None and note.get("world", self.world) != self.world:
                raise StoreError(
                    f"{self.path} is being written by {note['world']} ranks, and this is rank {self.rank} of "
                    f"{self.world}: give every process the same number of ranks"
                )

    def _settle_schema(self) -> None:
        path = self.path / "store.json"
        sweep(self.path, "setup")
        if not path.exists():
            write_json(path, self.schema.to_json(), tag="setup")
            return
        kept, wanted = Schema.from_json(read_json(path), str(path)), self.schema
        if canonical(kept.to_json()) != canonical(wanted.to_json()):
            raise StoreError(f"{self.path} was begun with other settings: {_difference(kept, wanted)}; "
                             "use the same, or choose another folder")  # fmt: skip

    def _publish(self, filling: "ShardBuffer") -> None:
        start, stop = filling.start, filling.stop
        path = self.path / SHARDS / Entry(start, stop, 0, "", "").name
        try:
            with publish_file(path, writer_tag(self.rank)) as temporary:
                write_shard(temporary, self.schema, stop - start, filling.data())
                size, prompts = temporary.stat().st_size, prompts_digest(filling.samples)
                entry = Entry(start, stop, size, digest(temporary), prompts)
            self._commit_to_manifest(entry)
            if stop - start == self.schema.shard_samples:
                self._used.append(filling.memory)
        except OSError as error:
            raise StoreError(
                f"images {start}..{stop - 1} could not be written to {self.path}: {error.strerror or error}. "
                "All shards before are safe; make room and run the same command again"
            ) from error

    def _commit_to_manifest(self, entry: Entry) -> None:
        """Write the manifest with one more shard (once a published shard), and remove the shorter shard that
        it supersedes."""
        with self._manifest_lock:
            old, listed = self._listed.get(entry.start), {**self._listed, entry.start: entry}
            write_manifest(self.path, self.rank, self.schema, listed.values(), self.versions)
            self._listed, self._entries = listed, {**self._entries, entry.start: entry}
        if old is not None and old.name != entry.name:
            (self.path / SHARDS / old.name).unlink(missing_ok=True)


class ShardBuffer:
    """A shard in memory, being filled in order."""

    def __init__(
        self, schema: Schema, start: int, stop: int, memory: dict[str, np.ndarray] | None = None
    ) -> None:
        """`memory`: of a full shard of the same schema that is not needed any more."""
        self.schema, self.start, self.stop = schema, start, stop
        self.samples: list[Sample] = []
        self._thumbnails: list[bytes] = []
        self.memory = memory or {
            name: np.empty(plan.shape, plan.dtype)
            for name, plan in layout(schema, stop - start).items()
            if plan.shape is not None and name.endswith(("/values", "/scale", "/positions"))
        }
        self._arrays = {name: array[: stop - start] for name, array in self.memory.items()}
        self._moments = {
            block: empty(schema.shape(block, 1)[1:3], shape[2]) for block, shape in schema.blocks.items()
        }

    def append(
        self,
        samples: Sequence[Sample],
        updates: Mapping[str, np.ndarray],
        thumbnails: Sequence[bytes] | None = None,
        positions: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Add images in order.

        `updates`: block -> (images, steps, branches, y, x, channels), float16 or float32 (or, for bfloat16,
        its bits in uint16). `thumbnails`: encoded image files. `positions`: block -> (images, P) flat
        indices y * width + x of the kept positions, when the schema samples them. Raises StoreError for
        other shapes and for numbers that the store's format cannot hold; the shard is then not published.
        """
        at, count = len(self.samples), len(samples)
        if at + count > self.stop - self.start:
            raise StoreError(f"{at + count} images for a shard of {self.stop - self.start}")
        if set(updates) != set(self.schema.blocks):
            raise StoreError(f"updates of {sorted(updates)} for a store of {sorted(self.schema.blocks)}")
        for block, array in updates.items():
            self._append_block(block, np.asarray(array), at, count)
            if self.schema.positions is not None:
                self._arrays[f"{block}/positions"][at : at + count] = (positions or {})[block]
        self.samples.extend(samples)
        self._thumbnails.extend(thumbnails if thumbnails is not None else [b""] * count)

    def _append_block(self, block: str, array: np.ndarray, at: int, count: int) -> None:
        if array.shape != self.schema.shape(block, count):
            raise StoreError(
                f"updates of {block} have shape {array.shape}, not {self.schema.shape(block, count)} "
                "(samples, steps, branches, y, x, channels)"
            )
        for offset, update in enumerate(array):  # image by image: fits the cache, and no batch size matters
            number = self.start + at + offset
            values, scale = encode(update, self.schema.dtype, f"the update of {block} in image {number}")
            self._arrays[f"{block}/values"][at + offset] = values
            if scale is not None:
                self._arrays[f"{block}/scale"][at + offset] = scale
            stored = decode(values, scale, self.schema.dtype)
            rows = stored.reshape(*stored.shape[:2], -1, stored.shape[-1])
            self._moments[block] += moments_of(rows, overwrite=True)  # in place: it stays in the cache

    def require_full(self) -> None:
        """Raise StoreError unless every image has come, in order."""
        indices = [sample.index for sample in self.samples]
        if indices != list(range(self.start, self.stop)):
            raise StoreError(
                f"the shard of images {self.start}..{self.stop - 1} was given {len(indices)} images, "
                "not these in order"
            )

    def data(self) -> dict[str, np.ndarray]:
        """Every dataset of the shard, by name; the moments' counts follow from their shapes."""
        data = dict(self._arrays)
        for block, moments in self._moments.items():
            data |= {f"{block}/{name}": getattr(moments, name) for name in ("mean", "m2", "norms")}
        data["samples"], data["samples_ends"] = pack_samples(self.samples)
        data["thumbnails"], data["thumbnails_ends"] = pack(self._thumbnails)
        return data


def _difference(kept: Schema, wanted: Schema) -> str:
    """The fields that differ, each by its full name (`provenance.model.scheduler.class`), and both values."""
    old, new = (json.loads(canonical(schema.to_json())) for schema in (kept, wanted))
    return "; ".join(f"{name} was {was}, is {now}" for name, was, now in _fields(old, new, ""))


def _fields(old: JSON, new: JSON, name: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _fields(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        was, now = ("none" if value is None else str(value)[:80] for value in (old, new))
        yield name.removeprefix("provenance."), was, now
