"""Which images rows are generated of, where there is no store: options of `unbox train`, or of a plan."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from unbox.capture.collect_settings import CollectSettings, OnBad
from unbox.errors import FieldError
from unbox.memory_limit import bytes_of
from unbox.models.sampling_options import PromptOptions, RunOptions
from unbox.text_files import read_toml_file
from unbox.validation import BatchSize, Count, Seed, Some, StepIndex, Text, parsed, validated

#: Table of a plan's file.
TABLE = "images"


@validated(kw_only=True)
class OnlineImages(RunOptions, PromptOptions):
    """The images that rows are generated of, and how the rows are mixed, where there is no store."""

    prompts: Text | None = None
    """shapes, hub:NAME or hub:NAME:CONFIG (streamed), or a file in UTF-8: .txt (one prompt a line), .csv,
    .jsonl, .parquet: train straight from generation, without a store.
    """
    limit: Count | None = None
    """At most so many prompts; needed with shapes, whose prompts have no end."""
    split: Text | None = None
    """Split of shapes (train, heldout) or of a Hub data set; None: train. Files have none."""
    column: Text | None = None
    """Column of the prompt in a table; None: the first of prompt, text and caption, in any case."""
    negative_prompt: Text | None = None
    """What not to draw; needs guidance above 1. "" is a text too, and not the same as None."""
    image_seed: Seed = 0
    """Seed of the images: image i is the one that `unbox collect --seed` of the same number makes."""
    image_batch: BatchSize = 8
    """Images sampled together; changes nothing but rounding, speed and memory."""
    keep_steps: Some[StepIndex] | None = None
    """Steps to keep, by the scheduler's own numbers from 0; None: all."""
    branches: Some[Literal["cond", "uncond"]] | None = None
    """Branches to keep; None: all there are: cond, and uncond under guidance."""
    positions: Count | None = None
    """Positions kept of each image, drawn by its seed; None: all."""
    row_dtype: Literal["float16", "bfloat16", "float32", "int8", "float8"] = "float16"
    """Number format of rows in the buffer; int8 and float8 (e4m3) have a scale for each vector."""
    buffer: Text = "1GB"
    """Host memory of the buffer that rows of all blocks are mixed in, like 4GB, of each process. Two are
    held: one that rows are drawn from, one that is being filled.
    """
    on_bad: OnBad = "stop"
    """An image with NaN or infinite numbers, or over the range of --row-dtype: stop; skip (the rows of the
    next image of its batch come twice, and it is counted); float32 (it is made again alone, the model in
    float32, and skipped if it is bad then too).
    """

    def __post_init__(self) -> None:
        bytes_of(self.buffer, "buffer")

    @property
    def buffer_bytes(self) -> int:
        """Bytes of a buffer."""
        return bytes_of(self.buffer, "buffer")

    def settings(self, blocks: Sequence[str]) -> CollectSettings:
        """The settings with which a store of the same rows would be collected."""
        names = [*vars(RunOptions()), *vars(PromptOptions()), "negative_prompt"]
        names += ["keep_steps", "branches", "positions"]
        return CollectSettings(
            **{name: getattr(self, name) for name in names},
            blocks=tuple(blocks),
            seed=self.image_seed,
            batch_size=self.image_batch,
            store_dtype=self.row_dtype,
            thumbnail=None,
        )


@validated(kw_only=True)
class PlannedImages(OnlineImages):
    """The table `[images]` of a plan: what rows are generated of, and by which model."""

    model: Text = ""
    """Name of a system, Hub id, diffusers folder or checkpoint file; empty: the one named beside the plan."""


def read_images(path: Path) -> PlannedImages | None:
    """The table `[images]` of a plan's file, if it has one. Raises UnboxError, naming the file and the key,
    for what is none."""
    table = read_toml_file(path).get(TABLE)
    if table is None:
        return None
    if not isinstance(table, dict):
        raise FieldError(str(path), TABLE, table, f"is a table, headed [{TABLE}]")
    return parsed(PlannedImages, table, f"{path}: [{TABLE}]")
