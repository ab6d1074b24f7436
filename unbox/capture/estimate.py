"""What collecting would take: a few images are timed, nothing is written."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from activation_store.writer import PUBLISH_EVERY
from unbox.capture.collect import generate_batch, length, numbered, require_recording, said_of_cut
from unbox.capture.collect_settings import FORMER, CollectSettings, schema_of
from unbox.errors import UnboxError
from unbox.former_names import renamed
from unbox.models.model import Model
from unbox.models.prompt_length import counted
from unbox.prompt import Prompt
from unbox.validation import Count, checked


@dataclass(frozen=True)
class Estimate:
    """A plan for collecting, from `timed` images on this machine."""

    images: int | None
    """Images to make; None when the prompts do not end."""
    vectors_per_image: int
    """Over all blocks, steps, branches and positions."""
    bytes_per_image: int
    """On disk, without thumbnails (a few kB each)."""
    seconds_per_image: float
    """With recording, on one device."""
    timed: int
    shard_samples: int
    axes: dict[str, dict[str, int]]
    """Block -> the axes of one image's updates, by name, and their lengths."""
    cut: str = ""
    """What is said of prompts that are too long for the text encoders; empty where none is."""

    def lines(self, gpus: int = 1) -> list[str]:
        """The plan in words, for so many devices."""
        count = self.images if self.images is not None else 1
        what = f"{count:,} images" if self.images is not None else "each image (the prompts have no end)"
        seconds = count * self.seconds_per_image / gpus
        shards = -(-count // self.shard_samples)
        disk = _size(count * self.bytes_per_image)
        lost = min(self.shard_samples * self.seconds_per_image, PUBLISH_EVERY)
        return [
            *(f"{name}: {(*axes.values(),)} of each ({', '.join(axes)})" for name, axes in self.axes.items()),
            f"{what}: {count * self.vectors_per_image:,} vectors, {disk} on disk",
            f"{self.seconds_per_image:.3g} s an image ({self.timed} timed): {_time(seconds)} on {gpus} such "
            f"device{'s' * (gpus > 1)}",
            f"{shards:,} files of {self.shard_samples} images, {-(-shards // gpus):,} for each device; "
            f"a kill loses at most {_time(lost)} of each device's work",
            *([self.cut] if self.cut else []),
        ]


def estimate(
    model: Model,
    prompts: Iterable[str | Prompt],
    *,
    limit: int | None = None,
    images: int | None = None,
    **settings: Any,
) -> Estimate:
    """Time `images` images (None: one batch) after a batch to warm up, and reckon the whole.

    `settings` as for `collect`. Raises UnboxError when there is no prompt.
    """
    chosen = CollectSettings(**renamed(settings, FORMER, warn=True))
    schema = schema_of(model, chosen)
    limit = checked(Count | None, "limit", limit, "estimate")  # type: ignore[arg-type]  # a rule
    images = checked(Count | None, "images", images, "estimate")  # type: ignore[arg-type]  # a rule
    require_recording(schema, chosen.batch_size)
    total = length(prompts, limit)
    if total is not None and not chosen.shard_samples:
        schema = schema.sized_for(total)
    count = images or chosen.batch_size
    first = list(islice(prompts, min(count, limit or count)))
    if not first:
        raise UnboxError("there is no prompt to time")
    samples = list(numbered(first, None, chosen.seed))
    batches = [samples[at : at + chosen.batch_size] for at in range(0, len(samples), chosen.batch_size)]
    with counted():
        cut = said_of_cut(model, prompts, limit, chosen)
        generate_batch(model, chosen, schema, batches[-1])
        begin = time.perf_counter()
        for batch in batches:
            generate_batch(model, chosen, schema, batch)[1].arrays()
    seconds = (time.perf_counter() - begin) / len(first)
    axes = {
        block: dict(zip(("step", "branch", *model.site(block).axes), schema.shape(block, 1)[1:], strict=True))
        for block in schema.blocks
    }
    return Estimate(
        total,
        schema.sample_vectors,
        schema.sample_bytes,
        seconds,
        len(first),
        schema.shard_samples,
        axes,
        cut,
    )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} minutes" if seconds < 7200 else f"{seconds / 3600:,.3g} hours"
