"""`unbox collect`."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from unbox.blocks import DEFAULT_BLOCKS
from unbox.cli.model_options import ModelOptions
from unbox.errors import UnboxError


@dataclass(frozen=True)
class Collect:
    """Generate an image for each prompt and keep what the blocks add to it in an activation store.

    Stopped at any moment, the same line makes what is missing. Several processes write one store together:
    under `torchrun`, or started by hand with --rank and --world.
    """

    prompts: str
    """shapes, hub:NAME or hub:NAME:CONFIG (streamed), or a file: .txt (one prompt a line), .csv, .jsonl,
    .parquet.
    """
    store: Path
    """Folder of the store; begun when it is not there."""
    blocks: tuple[str, ...] = DEFAULT_BLOCKS
    """Blocks to record."""
    steps: int | None = None
    """Sampling steps; default the system's."""
    guidance: float | None = None
    """Guidance scale; default the system's."""
    negative_prompt: str | None = None
    """Negative prompt of every image."""
    height: int | None = None
    """Height in pixels; default the system's."""
    width: int | None = None
    """Width in pixels; default the system's."""
    limit: int | None = None
    """Prompts to use at most; needed with shapes, whose prompts have no end."""
    seed: int = 0
    """Seed of the run; each image's follows from it and the prompt's number."""
    batch_size: int = 8
    """Images generated together; changes nothing but rounding."""
    keep_steps: tuple[int, ...] | None = None
    """Steps to keep, counted from 0; default all."""
    branches: tuple[Literal["cond", "uncond"], ...] | None = None
    """Branches to keep; default all there are."""
    positions: int | None = None
    """Positions kept of each image, drawn at random; default all."""
    store_dtype: Literal["float16", "bfloat16", "float32", "int8"] = "float16"
    """Number format of the store; int8 has a scale for each vector."""
    thumbnail: int = 128
    """Longer side of the kept pictures in pixels; 0 keeps none and saves decoding them."""
    split: str = "train"
    """Split of shapes (train, heldout) or of a Hub data set."""
    column: str | None = None
    """Column of the prompt in a table; default the first of prompt, text and caption, in any case."""
    rank: int | None = None
    """Number of this process, from 0; default RANK of the environment, else 0."""
    world: int | None = None
    """Number of processes that write the store; default WORLD_SIZE of the environment, else 1."""
    dry_run: bool = False
    """Write nothing: time a few images, print vectors, bytes and hours."""
    gpus: int = 1
    """Devices to plan for in a dry run."""
    model: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    """The model. Under torchrun each process takes the accelerator of its local rank."""

    def run(self) -> None:
        """Collect, or with --dry-run say what it would take."""
        import os

        from unbox.capture import collect, estimate, read_prompts

        if self.prompts == "shapes" and self.limit is None:
            raise UnboxError("the prompts of shapes have no end: say how many with --limit")
        prompts = read_prompts(self.prompts, self.seed, self.split, self.column)
        options, local = self.model, os.environ.get("LOCAL_RANK")
        if options.device is None and local is not None and _has_cuda():
            options = replace(options, device=f"cuda:{local}")
        model = options.load()
        settings = {name: getattr(self, name) for name in _SHARED}
        settings |= {"dtype": self.store_dtype, "thumbnail": self.thumbnail or None}
        if self.dry_run:
            print("\n".join(estimate(model, prompts, limit=self.limit, **settings).lines(self.gpus)))
            return
        store = collect(
            model, prompts, self.store, limit=self.limit, rank=self.rank, world=self.world, **settings
        )
        print(f"{self.store}: {len(store):,} images, {sum(len(store[b]) for b in store.blocks):,} vectors of "
              f"{', '.join(store.blocks)}")  # fmt: skip
        if holes := store.missing(store.entries[-1].stop if store.entries else 0):
            absent = sum(stop - start for start, stop in holes)
            print(f"{absent:,} images before the last one are not there yet: other ranks make them")


#: Options that are settings of `unbox.capture.collect` under the same name.
_SHARED = (
    "blocks", "steps", "guidance", "negative_prompt", "height", "width", "seed", "batch_size", "keep_steps",
    "branches", "positions",
)  # fmt: skip


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
