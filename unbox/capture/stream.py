"""Training rows straight from generation, never on disk, with the interface of a store's rows."""

from collections.abc import Iterable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from activation_store import Batches, Pool
from activation_store.batches import POOL_BYTES
from activation_store.files import canonical, digest
from activation_store.number_formats import encode
from activation_store.samples import prompts_digest
from unbox.capture.collect import numbered
from unbox.capture.collect_settings import FORMER, CollectSettings, run_facts, schema_of
from unbox.capture.image_batches import generate_batch
from unbox.capture.keeper import require_recording
from unbox.errors import UnboxError
from unbox.keyword_options import keyword_options
from unbox.models.model import Model
from unbox.models.run_lock import holds
from unbox.prompt import Prompt

#: Settings of collecting that say nothing to a stream.
IDLE = ("blocks", "thumbnail", "shard_samples")


class _StreamBatches(Batches):
    """Batches that another thread generates: refused to a thread that has the model and would block it."""

    def __init__(self, model: Model, **options: Any) -> None:
        self._model = model
        super().__init__(**options)

    def __next__(self) -> np.ndarray:
        if holds(self._model):
            raise UnboxError(
                "a stream generates in a thread of its own, and this one has the model alone: take its "
                "batches outside of `record`, `applied` and `exclusive`"
            )
        return super().__next__()


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
        if idle := [name for name in IDLE if getattr(settings, name) != getattr(plain, name)]:
            raise UnboxError(f"a stream takes no {idle[0]}: it is of one block, and nothing is kept")
        self.model, self.block = model, block
        self.settings = replace(settings, blocks=(block,), thumbnail=None)
        self.schema = schema_of(model, self.settings)
        require_recording(self.schema, self.settings.batch_size)
        samples = list(numbered(prompts, None, self.settings.seed))
        size = self.settings.batch_size
        self._groups = [samples[at : at + size] for at in range(0, len(samples), size)]
        if not self._groups:
            raise UnboxError("no prompts were given to stream")

    @property
    def width(self) -> int:
        """Channels d of a vector."""
        return self.schema.blocks[self.block][2]

    @property
    def shape(self) -> tuple[int, ...]:
        """(samples, steps, branches, y, x, channels)."""
        return self.schema.shape(self.block, sum(map(len, self._groups)))

    def __len__(self) -> int:
        """Number of vectors in an epoch."""
        return prod(self.shape[:-1])

    @property
    def digest(self) -> str:
        """SHA-256 of what these rows are: model, settings, prompts."""
        facts, _ = run_facts(self.model, self.settings)
        prompts = prompts_digest([sample for group in self._groups for sample in group])
        return digest(canonical([self.schema.to_json(), facts, self.settings.batch_size, prompts]))

    def batches(
        self,
        batch_size: int,
        seed: int = 0,
        epochs: int | None = 1,
        rank: int = 0,
        world: int = 1,
        cursor: dict[str, Any] | None = None,
        pool_bytes: int = POOL_BYTES,
    ) -> Batches:
        """As `activation_store.Rows.batches`: every row exactly once an epoch, shuffled, with a `cursor`."""
        return _StreamBatches(
            self.model,
            unit_rows=np.array([len(group) * self._per_image for group in self._groups], np.int64),
            load=self._generate,
            width=self.width,
            batch_size=batch_size,
            seed=seed,
            epochs=epochs,
            rank=rank,
            world=world,
            cursor=cursor,
            pool_rows=max(1, pool_bytes // self.schema.row_bytes(self.block)),
            identity=self.digest,
        )

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """`n` distinct rows, (n, width) float32, from images (16 at least) that have twice as many."""
        rng = np.random.default_rng([seed, 0x5A])
        images = max(16, -(-2 * n // self._per_image))
        groups = rng.permutation(len(self._groups))[: -(-images // self.settings.batch_size)]
        pool = self._generate(groups)
        return pool.take(rng.permutation(len(pool.values))[:n])

    @property
    def _per_image(self) -> int:
        return prod(self.shape[1:-1])

    def _generate(self, groups: np.ndarray, used: Pool | None = None) -> Pool:
        """Rows of some groups of images, encoded as a store would."""
        parts = []
        for number in groups:
            _, buffers = generate_batch(self.model, self.settings, self.schema, self._groups[number])
            rows = buffers.arrays()[self.block].reshape(-1, self.width)
            parts.append(encode(rows, self.schema.dtype, f"the update of {self.block}"))
        values = np.concatenate([values for values, _ in parts])
        scales = [scale for _, scale in parts if scale is not None]
        return Pool(values, np.concatenate(scales) if scales else None, self.schema.dtype)
