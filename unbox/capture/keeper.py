"""Keeping beside generation: one thread makes small pictures and hands images to the store's writer."""

import io
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
from PIL import Image

from activation_store import Sample, Schema, Writer
from activation_store.writer import WAITING
from unbox.capture.buffers import Buffers, recorded_bytes
from unbox.memory_limit import require

#: Batches that may wait for the keeper while the next is made, besides the one that it has.
QUEUE = 1
#: Batches whose updates are in memory at once, at most: made, waiting, with the keeper, with the writer.
IN_MEMORY = 1 + QUEUE + 1 + WAITING + 1


@dataclass(frozen=True)
class MadeImages:
    """Images of the run that follow each other, with their updates; or absent ones, without."""

    samples: Sequence[Sample]
    pictures: Sequence[Image.Image] = ()
    buffers: Buffers | None = None
    first: int = 0
    """Place of the first of them in `buffers`."""


class Keeper:
    """A context manager; `append` waits only while `QUEUE` batches wait."""

    def __init__(self, writer: Writer, side: int | None) -> None:
        """`side`: longer side of the pictures that are kept, in pixels; None keeps none."""
        self._writer, self._side = writer, side
        self._thread = ThreadPoolExecutor(1, "unbox-keeper")
        self._pending = deque[Future]()
        self.waited = 0.0
        """Seconds that generation waited."""
        self.images_waited = 0
        """Images that waited for those before them to be written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._thread:
            if kind is None:
                self.drain()

    def append(self, images: Sequence[MadeImages]) -> None:
        """Take a batch. Raises what went wrong with those before."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()
        if len(self._pending) > QUEUE:
            begin = time.perf_counter()
            self._pending.popleft().result()
            self.waited += time.perf_counter() - begin
            self.images_waited += sum(len(part.samples) for part in images)
        self._pending.append(self._thread.submit(self._keep, images))

    def drain(self) -> None:
        """Wait until the writer has all batches. Raises what went wrong."""
        while self._pending:
            self._pending.popleft().result()

    def _keep(self, images: Sequence[MadeImages]) -> None:
        for part in images:
            if part.buffers is None:
                self._writer.append(part.samples, self._nothing(len(part.samples)))
                continue
            some = slice(part.first, part.first + len(part.samples))
            updates = {block: rows[some] for block, rows in part.buffers.arrays().items()}
            where = part.buffers.positions
            kept = None if where is None else {block: flat[some] for block, flat in where.items()}
            side = self._side
            pictures = None if side is None else [thumbnail(image, side) for image in part.pictures]
            self._writer.append(part.samples, updates, pictures, kept)

    def _nothing(self, count: int) -> dict[str, np.ndarray]:
        """What stands for the updates of absent images; no memory."""
        schema = self._writer.schema
        return {block: np.broadcast_to(np.float16(0), schema.shape(block, count)) for block in schema.blocks}


def require_recording(schema: Schema, batch_size: int) -> None:
    """Raises UnboxError where batches' updates, as they are recorded and written, are too much memory."""
    what = f"recording the updates of {batch_size:,} images at once, while those before are written"
    require(IN_MEMORY * batch_size * recorded_bytes(schema), what)


def thumbnail(image: Image.Image, side: int) -> bytes:
    """A PIL image as WebP, its longer side at most `side` pixels."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    data = io.BytesIO()
    small.save(data, "WEBP", quality=80, method=4)
    return data.getvalue()
