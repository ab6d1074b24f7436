"""Training rows straight from generation, never on disk, with the interface of a store's rows."""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, Unpack

import numpy as np

from activation_store import Batches
from activation_store.batches import BatchOptions, BatchOrder, Cursor
from activation_store.files import JSON, canonical, digest
from unbox.capture.collect import numbered, some_of
from unbox.capture.collect_settings import FORMER, CollectSettings, OnBad, run_facts
from unbox.capture.generation import Generation, PoolReader
from unbox.capture.prompt_list import PromptList
from unbox.errors import UnboxError
from unbox.keyword_options import keyword_options
from unbox.memory_limit import require
from unbox.models.model import Model
from unbox.models.run_lock import holds
from unbox.prompt import Prompt
from unbox.stopping import stop_point
from unbox.validation import Count, Index, validated

#: Settings of collecting that say nothing to a stream.
IDLE = ("blocks", "thumbnail", "shard_samples")
#: Buffers that are in memory at once: one that rows are taken from, one that is being filled.
BUFFERS = 2


class StreamBatches(Batches):
    """Batches that another thread generates: refused to a thread that has the model and would block it."""

    def __init__(self, generation: Generation, reader: PoolReader, width: int, identity: str) -> None:
        per_image = generation.rows_of_image(reader.block)
        super().__init__(
            reader.order,
            unit_rows=np.array([len(group) * per_image for group in generation.groups], np.int64),
            load=_never,
            width=width,
            pool_rows=reader.images * per_image,
            identity=identity,
            spare=reader.spare,
        )
        self._generation, self._of = generation, reader
        self._read = partial(generation.pool, reader)
        self._coming: Future[list[object] | None] | None = None
        self._before: Cursor = {}
        self._waiter = ThreadPoolExecutor(1, "unbox-wait")
        generation.enter(reader)
        weakref.finalize(self, generation.leave, reader)

    @property
    def cursor(self) -> Cursor:
        """Where the batch begins that is given next."""
        return super().cursor if self._coming is None else self._before

    def ready(self, seconds: float) -> bool:
        """Whether the next batch is there, after waiting for it for so long at most. Raises UnboxError in a
        thread that has the model, and would wait for ever."""
        if holds(self._generation.model):
            raise UnboxError(
                "a stream generates in a thread of its own, and this one has the model alone: take its "
                "batches outside of `record`, `applied` and `exclusive`"
            )
        if self._coming is None:
            if self._of.closed:
                return True
            self._before = super().cursor
            self._coming = self._waiter.submit(next, self._batches, None)
        wait([self._coming], seconds)
        return self._coming.done()

    def next_parts(self) -> list[object]:
        while not self.ready(1.0):
            stop_point()
        coming, self._coming = self._coming, None
        parts = None if coming is None else coming.result()
        if parts is None:
            raise StopIteration
        return parts

    def close(self) -> None:
        """Stop generating for these batches; waits for nothing."""
        self._generation.leave(self._of)
        if self._coming is None:
            self._batches.close()
        self._reader.shutdown(wait=False, cancel_futures=True)
        self._waiter.shutdown(wait=False, cancel_futures=True)


class Stream:
    """Rows of one block of a model for some prompts, generated whenever they are asked for.

    The rows are those that `collect` would keep with the same settings. An epoch generates every image once;
    rows are shuffled within pools of images drawn at random. Generating goes on in another thread while a
    batch is used; a call of the model meanwhile waits until a pool is made. A thread that has the model alone
    (`record`, `applied`) would wait for ever, so that batches are refused there.
    """

    @keyword_options(CollectSettings, FORMER)
    def __init__(
        self, model: Model, prompts: Iterable[str | Prompt], block: str, settings: CollectSettings
    ) -> None:
        """The options are the fields of `CollectSettings` but `blocks`, `thumbnail` and `shard_samples`."""
        plain = CollectSettings()
        if idle := [name for name in IDLE if getattr(settings, name) not in (None, getattr(plain, name))]:
            raise UnboxError(f"a stream takes no {idle[0]}: it is of one block, and nothing is kept")
        settings = replace(settings, blocks=(block,), thumbnail=None)
        listed = PromptList(numbered(prompts, None, settings), settings.seed)
        generation = Generation(model, listed, settings, "stop", 0)
        if len(names := list(generation.schema.blocks)) > 1:
            raise UnboxError(f"a stream is of one of {', '.join(names)}: choose `what` and `layers`")
        self._begin(generation, names[0], None)

    @classmethod
    def of(cls, generation: Generation, block: str, images: int) -> "Stream":
        """The rows of one of a generation's blocks, mixed over so many `images`."""
        stream = cls.__new__(cls)
        stream._begin(generation, block, images)
        return stream

    def _begin(self, generation: Generation, block: str, images: int | None) -> None:
        self.generation, self.block, self._images = generation, block, images
        self.schema = generation.schema

    @property
    def width(self) -> int:
        """Channels d of a vector."""
        return self.schema.blocks[self.block][2]

    @property
    def shape(self) -> tuple[int, ...]:
        """(samples, steps, branches, y, x, channels)."""
        return self.schema.shape(self.block, sum(map(len, self.generation.groups)))

    def __len__(self) -> int:
        """Number of vectors in an epoch."""
        return prod(self.shape[:-1])

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What a store of these rows would record of its run."""
        return run_facts(self.generation.model, self.generation.settings)[0]

    @property
    def digest(self) -> str:
        """SHA-256 of what these rows are: model, settings, prompts."""
        made = self.generation
        which: JSON = [self.block, made.settings.batch_size, made.groups[0].start, made.prompts.digest]
        return digest(canonical([self.schema.to_json(), dict(self.provenance), which]))

    def batches(self, batch_size: int, **options: Unpack[BatchOptions]) -> Batches:
        """As `activation_store.Rows.batches`: every row exactly once an epoch, shuffled, with a `cursor`."""
        order = BatchOrder(batch_size, **options)
        images = self._images
        if images is None or "pool_bytes" in options:
            row_bytes = self.schema.row_bytes(self.block)
            images = max(1, order.pool_bytes // (row_bytes * self.generation.rows_of_image(self.block)))
        reader = PoolReader(self.block, order, images)
        return StreamBatches(self.generation, reader, self.width, self.digest)

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """`n` distinct rows, (n, width) float32, from images (16 at least) that have twice as many."""
        return self.generation.sample(self.block, n, seed).decoded()


@validated(kw_only=True)
class StreamOptions(CollectSettings):
    """What several blocks' rows are generated of, and how they are mixed."""

    limit: Count | None = None
    """At most so many prompts; None: all."""
    first: Index = 0
    """Number of the first image; those before are not made."""
    buffer_bytes: Count = 1 << 30
    """Encoded bytes of the rows, of all blocks, that are mixed: two such buffers are in memory."""
    on_bad: OnBad = "stop"
    """What is done with an image that computes NaN or infinite numbers, or is over the format's range."""


class Streams(Mapping[str, Stream]):
    """The rows of several blocks of a model, by block, from images that are made once for all of them.

    Batches of all blocks that are taken in turn, with the same seed and ranks, share what is generated: an
    image is made once. Taken one block after the other, its images are made again for each. Rows are mixed
    over as many images as the buffer holds. Memory: two buffers, a batch of images in the making, the texts
    of the prompts.
    """

    @keyword_options(StreamOptions, FORMER)
    def __init__(self, model: Model, prompts: Iterable[str | Prompt], options: StreamOptions) -> None:
        """The options are the fields of `StreamOptions` but `thumbnail` and `shard_samples`.

        Raises UnboxError where there are no prompts, and for buffers that are smaller than a batch of images
        or over the memory that a request may take."""
        plain = StreamOptions()
        if idle := [name for name in IDLE[1:] if getattr(options, name) not in (None, getattr(plain, name))]:
            raise UnboxError(f"streams take no {idle[0]}: nothing is kept")
        settings = replace(options, thumbnail=None)
        listed = PromptList(numbered(prompts, options.limit, options), options.seed)
        self.generation = Generation(model, listed, settings, options.on_bad, options.first)
        if (least := self.generation.batch_bytes) > options.buffer_bytes:
            raise UnboxError(
                f"a buffer of {options.buffer_bytes:,} bytes is smaller than a batch of images, {least:,}: "
                "give a larger buffer, or smaller batches"
            )
        require(BUFFERS * options.buffer_bytes, f"{BUFFERS} buffers of rows")
        self.images = options.buffer_bytes // self.generation.schema.sample_bytes
        """Images that rows are mixed over."""

    def __getitem__(self, block: str) -> Stream:
        if block not in self.generation.schema.blocks:
            raise KeyError(block)
        return Stream.of(self.generation, block, self.images)

    def __iter__(self) -> Iterator[str]:
        return iter(self.generation.schema.blocks)

    def __len__(self) -> int:
        return len(self.generation.schema.blocks)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What a store of these rows would record of its run."""
        return run_facts(self.generation.model, self.generation.settings)[0]

    def said_of_bad(self) -> str:
        """What was done with images that are not as they should be; empty where there are none."""
        again, absent = self.generation.in_float32, self.generation.absent
        said = [f"made again in float32: {len(again):,} images ({some_of(again)})"] if again else []
        if absent:
            numbers = some_of(list(absent))
            said.append(f"{len(absent):,} images are left out ({numbers}); rows of others came twice")
        return "; ".join(said)

    @property
    def absent(self) -> Mapping[int, str]:
        """Images that could not be kept, in this process and so far, and why."""
        return self.generation.absent


def _never(*given: object) -> Any:
    raise AssertionError("the rows of a stream are read by its generation")
