"""Writing a store: a rank's images come in batches and are kept beside whatever makes them.

One thread encodes and counts what came, one writes its chunks, one publishes full shards: fsync, digest,
name, and a line in the rank's log, which is the moment from which the shard counts.
"""

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np

from activation_store.commit_log import writer_tag
from activation_store.entries import SHARDS, Entry, shard_path
from activation_store.errors import StoreError, UnstorableError
from activation_store.files import JSON, sweep
from activation_store.listing import read_listing
from activation_store.locks import holder, lock
from activation_store.moments import Moments
from activation_store.number_formats import encode
from activation_store.same_run import refuse_other_prompts, settle_schema
from activation_store.samples import Sample, check_sample
from activation_store.schema import VERSION, Schema
from activation_store.shard import open_shard
from activation_store.shard_publisher import ShardPublisher
from activation_store.shard_writer import EncodedImage, ShardWriter, stored_images

#: Batches that may wait to be encoded while the next is made.
WAITING = 2

#: Shards of other ranks whose prompts a rank compares with its own list: each compares all of its own.
OTHERS_COMPARED = 64

#: Seconds after which what is whole of a shard is published though more of it will come.
PUBLISH_EVERY = 600.0


class Writer:
    """Writes the images of one rank; a context manager that holds the rank's lock.

    A shard holds images [start, stop) of the run, start a multiple of `schema.shard_samples`, and belongs to
    rank (start / shard_samples) % world. What it contains depends on its images alone, so ranks, batches,
    interruptions and resuming change nothing. A shard that had to be published before it was full (the run
    ended, `publish`, an error, ten minutes) is made anew, longer, when its next images come: those that are
    there are copied.

    Memory: batches of up to `WAITING` + 1, one chunk of each block, step and branch, and what waits for the
    disk (64 MB): nothing grows with shards.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        schema: Schema,
        *,
        rank: int = 0,
        world: int = 1,
        total: int | None = None,
        on_bad: Literal["stop", "skip"] = "stop",
        versions: Mapping[str, JSON] | None = None,
    ) -> None:
        """`total`: images of the whole run, where it is known. `on_bad`: an image with numbers that the
        format cannot hold is an error (`stop`), or is marked absent (`skip`)."""
        if not 0 <= rank < world:
            raise StoreError(f"rank {rank} of {world}: ranks count from 0 to {world - 1}")
        self.path, self.schema, self.rank, self.world = Path(path), schema, rank, world
        self.versions, self.on_bad = dict(versions or {}), on_bad
        self.absent: dict[int, str] = {}
        """Images that this writer marked absent, and why."""
        self.waited = 0.0
        """Seconds that `append` waited for images before to be encoded and written."""
        self._total = total
        self._locks = ExitStack()
        self._queue = deque[Future]()
        self._publishing: Future | None = None
        self._shard: ShardWriter | None = None
        self._failed = False

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
            self._finish(stopped=error is not None)
        except Exception:
            if error is None:  # else the first error is the one to show
                raise
        finally:
            if self._shard is not None:
                self._shard.abandon()
            self._locks.close()

    @property
    def entries(self) -> Mapping[int, Entry]:
        """The store's shards by their first image."""
        return self._publisher.entries

    def missing(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Of the run's samples, from image 0 on, those that are this rank's to make.

        Raises StoreError when the store holds others in their place: the run would go on with other prompts
        or seeds.
        """
        size = self.schema.shard_samples
        for number, group in groupby(samples, key=lambda sample: sample.index // size):
            entry = self.entries.get(number * size)
            if number % self.world != self.rank:
                if entry is not None and len(some := list(group)) >= entry.samples:
                    refuse_other_prompts(self.path, self.schema, entry, some)  # which another rank was given
                continue
            if entry is None:
                yield from group
                continue
            some = list(group)
            refuse_other_prompts(self.path, self.schema, entry, some)
            yield from (sample for sample in some if sample.index >= entry.stop)

    def asks(self, total: int | None) -> list[range] | None:
        """Which samples of a run of `total` images `missing` is to be given, ascending: those of this rank's
        shards, and of OTHERS_COMPARED others that are there. None: all, where there is no total."""
        if total is None:
            return None
        size, count = self.schema.shard_samples, -(-total // self.schema.shard_samples)
        others = [n for n in range(count) if n % self.world != self.rank and n * size in self.entries]
        some = others[:: max(1, -(-len(others) // OTHERS_COMPARED))]
        numbers = sorted([*range(self.rank, count, self.world), *some])
        return [range(n * size, min((n + 1) * size, total)) for n in numbers]

    def holds(self, number: int) -> bool:
        """Whether the store has image `number` of the run (or knows that it is absent)."""
        entry = self.entries.get(number - number % self.schema.shard_samples)
        return entry is not None and number < entry.stop

    def append(
        self,
        samples: Sequence[Sample],
        updates: Mapping[str, np.ndarray],
        thumbnails: Sequence[bytes] | None = None,
        positions: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Take the next images, in the order of `missing`; returns as soon as at most `WAITING` batches wait.

        `updates`: block -> (images, steps, branches, y, x, channels), float16 or float32 (or, for bfloat16,
        its bits in uint16); they are the writer's from now on, and must not be changed. An image whose sample
        is `absent` has none: what stands for it is passed over. `thumbnails`: encoded image files.
        `positions`: block -> (images, P) flat indices y * width + x of the kept positions, when the schema
        samples them.

        Raises StoreError for other shapes; for what went wrong with images before: numbers that the store's
        format cannot hold (UnstorableError), or a disk that refused. What was whole before those is kept.
        """
        if self._version != VERSION:
            raise StoreError(
                f"{self.path} was written by a version before; bring it up to date "
                f"first, its files stay as they are: `unbox store upgrade {self.path}`"
            )
        self._check(samples, updates, thumbnails)
        if self._failed:
            self.flush()
            raise StoreError(f"writing to {self.path} went wrong before; run the same command again")
        begin = time.perf_counter()
        while len(self._queue) > WAITING:
            self._queue.popleft().result()
        self.waited += time.perf_counter() - begin
        while self._queue and self._queue[0].done():
            self._queue.popleft().result()
        work = (list(samples), dict(updates), thumbnails, positions)
        self._queue.append(self._encoder.submit(self._keep, *work))

    def copy(self, image: EncodedImage) -> None:
        """Take the next image as a shard of the same blocks, steps, branches and format holds it."""
        while len(self._queue) > 4 * WAITING:
            self._queue.popleft().result()
        self._queue.append(self._encoder.submit(self._add, image))

    def link(self, entry: Entry, file: Path, moments: Mapping[str, Moments]) -> None:
        """Take a whole shard of a store with the same settings: a hard link to its file, or a copy of it."""
        self.flush()
        self._publisher.link(entry, file, moments)

    def flush(self) -> None:
        """Wait until what was appended is encoded and every full shard committed. Raises what went wrong."""
        while self._queue:
            self._queue.popleft().result()
        if self._publishing is not None:
            publishing, self._publishing = self._publishing, None
            publishing.result()

    def publish(self) -> None:
        """Wait until all that was appended is committed, also of a shard that is not full."""
        self.flush()
        self._encoder.submit(self._publish_part).result()

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
            self._version = settle_schema(self.path, self.schema)
        sweep(self.path, writer_tag(self.rank))
        listing = read_listing(self.path, self.schema, self._version)
        self._publisher = ShardPublisher(self.path, self.schema, self.rank, listing)
        if self._version == VERSION:
            self._publisher.begin(self.versions)
        self._published = time.monotonic()
        self._sync, self._disk, self._publishing_thread, self._encoder = (
            self._locks.enter_context(ThreadPoolExecutor(1, f"unbox-{name}"))
            for name in ("sync", "chunks", "publish", "encode")
        )

    def _refuse_other_worlds(self) -> None:
        for path in self.path.glob("writer-*.lock"):
            note = holder(path)
            if note is not None and note.get("world", self.world) != self.world:
                raise StoreError(
                    f"{self.path} is being written by {note['world']} ranks, and this is rank {self.rank} of "
                    f"{self.world}: give every process the same number of ranks"
                )

    def _check(
        self,
        samples: Sequence[Sample],
        updates: Mapping[str, np.ndarray],
        thumbnails: Sequence[bytes] | None,
    ) -> None:
        for sample in samples:
            check_sample(sample)
        if thumbnails is not None and [type(picture) for picture in thumbnails] != [bytes] * len(samples):
            raise StoreError(f"thumbnails: should be {len(samples)}, one for each image, as bytes")
        if set(updates) != set(self.schema.blocks):
            raise StoreError(f"updates of {sorted(updates)} for a store of {sorted(self.schema.blocks)}")
        for block, array in updates.items():
            kinds = ("float16", "float32", *(("uint16",) if self.schema.dtype == "bfloat16" else ()))
            if not isinstance(array, np.ndarray) or array.dtype.name not in kinds:
                kind = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
                raise StoreError(f"updates of {block} are {kind}: should be an array of {' or '.join(kinds)}")
            if array.shape != (wanted := self.schema.shape(block, len(samples))):
                raise StoreError(
                    f"updates of {block} have shape {array.shape}, not {wanted} "
                    "(samples, steps, branches, y, x, channels)"
                )

    def _keep(
        self,
        samples: Sequence[Sample],
        updates: Mapping[str, np.ndarray],
        thumbnails: Sequence[bytes] | None,
        positions: Mapping[str, np.ndarray] | None,
    ) -> None:
        """Encode a batch, image by image: that fits the cache, and no batch size matters."""
        for at, sample in enumerate([] if self._failed else samples):
            values: dict[str, np.ndarray] = {}
            scales: dict[str, np.ndarray] = {}
            try:
                for block, array in updates.items() if sample.absent is None else ():
                    where = f"the update of {block} in image {sample.index}"
                    values[block], scale = encode(array[at], self.schema.dtype, where)
                    if scale is not None:
                        scales[block] = scale
            except UnstorableError as error:
                if self.on_bad == "stop":
                    self._failed = True
                    raise
                sample, values, scales = replace(sample, absent=str(error)), {}, {}
            of_image = {block: array[at] for block, array in (positions or {}).items()}
            picture = thumbnails[at] if thumbnails is not None else b""
            self._add(EncodedImage(sample, picture, values, scales, of_image))
        if time.monotonic() - self._published > PUBLISH_EVERY:
            self._publish_part()

    def _add(self, image: EncodedImage) -> None:
        """Put the next image into its shard; publish it when it is full."""
        if self._failed:
            return
        number, size = image.sample.index, self.schema.shard_samples
        try:
            if self._shard is not None and number >= self._shard.start + size:
                self._publish_part()
            shard = self._shard or self._begin(number)
            if number != shard.start + shard.count:
                raise StoreError(
                    f"image {number} came where image {shard.start + shard.count} should: images come in "
                    "order, without holes in a shard"
                )
            with self._publisher.naming(shard.start, shard.stop):
                shard.add(image)
            if image.sample.absent is not None:
                self.absent[number] = image.sample.absent
            if shard.full:
                self._shard = None
                self._settle()
                self._publishing = self._publishing_thread.submit(self._publish, shard)
        except BaseException:
            self._failed = True
            raise

    def _begin(self, number: int) -> ShardWriter:
        """The shard of an image, with what the store has of it already."""
        size = self.schema.shard_samples
        start = number - number % size
        stop = start + size if self._total is None else min(start + size, max(self._total, number + 1))
        if start // size % self.world != self.rank:
            raise StoreError(f"image {number} is not rank {self.rank}'s of {self.world}, in shards of {size}")
        self._settle()
        self._shard = self._new(start, stop)
        if (entry := self.entries.get(start)) is not None:
            with open_shard(shard_path(self.path, self.schema, entry), self.schema, entry) as file:
                self._fill(self._shard, stored_images(file, self.schema, entry))
        return self._shard

    def _new(self, start: int, stop: int) -> ShardWriter:
        return self._publisher.new(start, stop, self._disk, self._sync)

    def _fill(self, shard: ShardWriter, images: Iterable[EncodedImage]) -> None:
        with self._publisher.naming(shard.start, shard.stop):
            for image in images:
                shard.add(image)

    def _copy(self, whole: ShardWriter) -> ShardWriter:
        """A shard of the images so far, as one that was begun for these: the same bytes."""
        shard = self._new(whole.start, whole.start + whole.count)
        try:
            self._fill(shard, whole.images())
        finally:
            whole.abandon()
        return shard

    def _cut(self, shard: ShardWriter) -> ShardWriter:
        """The same, at once: of a run that goes on later, whose next images make it anew."""
        with self._publisher.naming(shard.start, shard.stop):
            shard.cut()
        return shard

    def _publish_part(self, stopped: bool = False) -> None:
        """Publish what is whole of the shard that is being filled, as a shorter one."""
        self._published = time.monotonic()
        if self._shard is None:
            return
        wait([self._publishing] if self._publishing else [])
        shard, self._shard = self._shard, None
        entry = self.entries.get(shard.start)
        if shard.count and not (entry and entry.samples >= shard.count):
            if not shard.full:
                shard = self._cut(shard) if stopped else self._copy(shard)
            self._publish(shard)
        else:
            shard.abandon()

    def _publish(self, shard: ShardWriter) -> None:
        try:
            self._publisher.publish(shard)
        except BaseException:
            self._failed = True
            raise
        self._published = time.monotonic()

    def _settle(self) -> None:
        """Wait for the shard that is being published."""
        if self._publishing is not None:
            self._publishing.result()

    def _finish(self, stopped: bool) -> None:
        """Commit all that is whole, after an error too; then raise the first error."""
        errors: list[StoreError | OSError] = []
        publish_part = lambda: self._encoder.submit(self._publish_part, stopped).result()  # noqa: E731
        for step in (self.flush, publish_part, self._publisher.write_statistics):
            try:
                step()
            except (StoreError, OSError) as error:
                errors.append(error)
        if errors:
            raise errors[0]
