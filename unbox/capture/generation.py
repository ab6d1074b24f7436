"""Images made over and over for their updates, which are not kept: what the streams of several blocks share.

Images are made in groups, the batches of sampling; groups are drawn at random into pools. A pool is made once
for all blocks whose training asks for it, whichever asks first.
"""

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch

from activation_store import Pool, Sample, UnstorableError
from activation_store.batches import BatchOrder, Place, pop
from activation_store.number_formats import encode
from activation_store.rows import new_pool
from unbox.capture.collect_settings import CollectSettings, OnBad, schema_of
from unbox.capture.image_batches import ImageBatches
from unbox.capture.keeper import require_recording
from unbox.capture.prompt_list import PromptList
from unbox.errors import UnboxError
from unbox.models.model import Model

#: Pools that are kept for a block that has not asked for them yet. It makes them again if it is later still.
KEPT = 2

#: Values and scales of an image's rows, by block.
_Encoded = Mapping[str, tuple[np.ndarray, np.ndarray | None]]


class Closed(Exception):
    """Nobody wants what is being made any more."""


@dataclass(eq=False)
class PoolReader:
    """Who takes the pools of one block, in order."""

    block: str
    order: BatchOrder
    images: int
    """Of a pool."""
    spare: list[Pool] = field(default_factory=list)
    """Used pools, to be filled again."""
    ready: dict[Place, Pool] = field(default_factory=dict)
    """Pools that were made when another block asked for them."""
    asked: Place | None = None
    """The last one that was asked for."""
    closed: bool = False

    def wants(self, place: Place, other: "PoolReader") -> bool:
        """Whether the pool at a place of another's order is to come here too."""
        alike = all(getattr(self.order, n) == getattr(other.order, n) for n in ("seed", "rank", "world"))
        later = self.asked is None or place > self.asked
        waits = place not in self.ready and len(self.ready) < KEPT
        return alike and self.images == other.images and later and waits and not self.closed


class Generation:
    """Makes images for prompts, and gives the rows that blocks add to them, encoded as a store would."""

    def __init__(
        self, model: Model, prompts: PromptList, settings: CollectSettings, on_bad: OnBad, first: int
    ) -> None:
        """`first`: number of the first image that is made; those before are kept from training."""
        self.model, self.prompts, self.settings = model, prompts, settings
        self.schema = schema_of(model, settings)
        require_recording(self.schema, settings.batch_size)
        size = settings.batch_size
        self.groups = [range(at, min(at + size, len(prompts))) for at in range(first, len(prompts), size)]
        if not self.groups:
            raise UnboxError("no prompts were given to stream")
        self.absent: dict[int, str] = {}
        """Numbers of images whose place another one of their group took, and why, in this process."""
        self._images = ImageBatches(model, settings, self.schema, on_bad)
        self._making = threading.Lock()
        self._readers: list[PoolReader] = []
        self._samples: dict[tuple[int, int], dict[str, Pool]] = {}

    @property
    def in_float32(self) -> list[int]:
        """Numbers of images that were made again in float32, in this process; as often as they were."""
        return self._images.in_float32

    def rows_of_image(self, block: str) -> int:
        """Rows that an image adds, over steps, branches and positions."""
        return prod(self.schema.shape(block, 1)[1:-1])

    def enter(self, reader: PoolReader) -> None:
        """Make pools for a reader too, until it is closed."""
        self._readers.append(reader)

    def leave(self, reader: PoolReader) -> None:
        """Nothing more is wanted of a reader; waits for nothing."""
        reader.closed = True
        reader.ready.clear()
        reader.spare.clear()

    def pool(self, reader: PoolReader, place: Place, groups: np.ndarray, used: Pool | None) -> Pool:
        """The pool at a place of a reader's order: its groups' rows, in the memory of a `used` one if it
        fits. Waits while another block's asking has it made."""
        with self._making:
            reader.asked = place
            for passed in [other for other in reader.ready if other < place]:
                del reader.ready[passed]
            if (pool := reader.ready.pop(place, None)) is not None:
                if used is not None:
                    reader.spare.append(used)
                return pool
            if used is not None:
                reader.spare.append(used)
            self._readers = [other for other in self._readers if not other.closed]
            takers = [reader, *(o for o in self._readers if o is not reader and o.wants(place, reader))]
            pools = self._make_pools(groups, takers)
            for taker, pool in zip(takers[1:], pools[1:], strict=True):
                if not taker.closed:
                    taker.ready[place] = pool
            return pools[0]

    def _make_pools(self, groups: np.ndarray, takers: Sequence[PoolReader]) -> list[Pool]:
        images = sum(len(self.groups[number]) for number in groups)
        pools: list[Pool] = []
        at = 0
        with beside_others(self.model.device):
            for number in groups:
                if all(taker.closed for taker in takers):
                    raise Closed
                made = self.make(number)
                # Taken as late as can be: until then the pools before may be in use.
                pools = pools or [self._memory(taker, images) for taker in takers]
                for encoded in made:
                    for taker, pool in zip(takers, pools, strict=True):
                        rows = self.rows_of_image(taker.block)
                        _put(encoded, taker.block, pool.part(slice(at * rows, (at + 1) * rows)))
                    at += 1
        return pools

    def _memory(self, reader: PoolReader, images: int) -> Pool:
        rows, width = images * self.rows_of_image(reader.block), self.schema.blocks[reader.block][2]
        used = pop(reader.spare)
        if used is not None and used.holds(rows, width, self.schema.dtype):
            return used
        # A pool ends with the group that fills it.
        most = min(reader.images + self.settings.batch_size - 1, sum(map(len, self.groups)))
        return new_pool(most * self.rows_of_image(reader.block), width, self.schema.dtype)

    def make(self, group: int) -> list[_Encoded]:
        """Rows of each image of a group. The place of one that cannot be kept is taken by the next of its
        group (`on_bad`)."""
        batch = [self.prompts[index] for index in self.groups[group]]
        found: list[_Encoded | None] = []
        for part in self._images.make(batch):
            if part.buffers is None:
                for sample in part.samples:
                    self._miss(sample, str(sample.absent))
                    found.append(None)
                continue
            arrays = part.buffers.arrays()
            for place, sample in enumerate(part.samples, part.first):
                found.append(self._encode(sample, {block: x[place] for block, x in arrays.items()}))
        good = [one for one in found if one is not None]
        if not good:
            reason = self.absent[batch[0].index]
            raise UnboxError(f"no image of {batch[0].index} to {batch[-1].index} can be kept: {reason}")
        after: _Encoded = good[0]
        for place in reversed(range(len(found))):
            after = found[place] = found[place] or after
        return [one for one in found if one is not None]

    def _encode(self, sample: Sample, updates: Mapping[str, np.ndarray]) -> _Encoded | None:
        encoded = {}
        try:
            for block, x in updates.items():
                rows = x.reshape(-1, x.shape[-1])
                where = f"the update of {block} in image {sample.index}"
                encoded[block] = encode(rows, self.schema.dtype, where)
        except UnstorableError as error:
            if self._images.on_bad == "stop":
                raise
            self._miss(sample, str(error))
            return None
        return encoded

    def _miss(self, sample: Sample, reason: str) -> None:
        if not self.absent:
            warnings.warn(
                f"image {sample.index} is left out, and the rows of the next one of its batch come twice: "
                f"{reason}. Further ones are counted at the end",
                stacklevel=2,
            )
        self.absent[sample.index] = reason

    def sample(self, block: str, n: int, seed: int) -> Pool:
        """`n` distinct rows of a block, or all, in random order, from images that have twice as many (16 at
        least). The images are made once for all blocks that ask for the same."""
        with self._making:
            of_blocks = self._samples.get((n, seed), {})
            if block not in of_blocks:
                of_blocks = self._samples[n, seed] = self._sampled(n, seed)
            pool = of_blocks.pop(block)
            if not of_blocks:
                del self._samples[n, seed]
            return pool

    def _sampled(self, n: int, seed: int) -> dict[str, Pool]:
        least = min(map(self.rows_of_image, self.schema.blocks))
        images = max(16, -(-2 * n // least))
        groups = np.random.default_rng([seed, 0x5A]).permutation(len(self.groups))
        groups = groups[: -(-images // self.settings.batch_size)]
        count = sum(len(self.groups[number]) for number in groups)
        wanted, pools = {}, {}
        for block in self.schema.blocks:
            rng = np.random.default_rng([seed, 0x5B])
            chosen = rng.permutation(count * self.rows_of_image(block))[:n]
            wanted[block] = chosen[order := np.argsort(chosen)], order
            pools[block] = new_pool(len(chosen), self.schema.blocks[block][2], self.schema.dtype)
        at = 0
        for number in groups:
            for encoded in self.make(number):
                for block, (rows, order) in wanted.items():
                    size = self.rows_of_image(block)
                    first, last = np.searchsorted(rows, (at * size, (at + 1) * size))
                    _scatter(encoded[block], rows[first:last] - at * size, pools[block], order[first:last])
                at += 1
        return pools

    @property
    def batch_bytes(self) -> int:
        """Encoded bytes of a batch of images, of all blocks."""
        return self.schema.sample_bytes * self.settings.batch_size


def _put(encoded: _Encoded, block: str, pool: Pool) -> None:
    values, scale = encoded[block]
    pool.values[:] = values
    if pool.scale is not None:
        pool.scale[:] = scale


def _scatter(
    encoded: tuple[np.ndarray, np.ndarray | None], rows: np.ndarray, pool: Pool, places: np.ndarray
) -> None:
    values, scale = encoded
    pool.values[places] = values[rows]
    if pool.scale is not None and scale is not None:
        pool.scale[places] = scale[rows]


@contextmanager
def beside_others(device: torch.device) -> Iterator[None]:
    """On a GPU, what this thread asks of it inside runs beside what other threads ask: in a CUDA stream of
    its own, after what was asked before."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.default_stream(device))
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()
