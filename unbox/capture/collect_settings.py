"""What is collected: the settings that collecting, streaming and estimating share."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import BeforeValidator

from activation_store import Schema
from unbox.errors import FieldError, UnboxError
from unbox.models.sampling_options import SamplingOptions
from unbox.ranks import ranks
from unbox.site import BRANCHES, DEFAULT_BLOCKS, BlockName
from unbox.validation import Count, Processes, Rank, Seed, Some, StepIndex, Whole, validated

if TYPE_CHECKING:
    from unbox.models.model import Model

#: Names of settings that were others.
FORMER = {"dtype": "store_dtype"}

#: What is done with an image that computes NaN or infinite numbers.
OnBad = Literal["stop", "skip", "float32"]

#: Side of a kept picture: 0 and None keep none.
Thumbnail = Annotated[
    Annotated[Whole, Ge(1), Le(16384)] | None,
    BeforeValidator(lambda side: None if isinstance(side, int) and not side and side is not False else side),
]


@validated(kw_only=True)
class CollectSettings(SamplingOptions):
    """Which updates of which runs."""

    blocks: Some[BlockName] = DEFAULT_BLOCKS
    """Blocks to record."""
    seed: Seed = 0
    """Seed of the run; an image's follows from it and the prompt's number, whatever the batches and ranks."""
    keep_steps: Some[StepIndex] | None = None
    """Steps to keep, by the scheduler's own numbers from 0; None: all."""
    branches: Some[Literal["cond", "uncond"]] | None = None
    """Branches to keep; None: all there are: cond, and uncond under guidance."""
    positions: Count | None = None
    """Positions kept of each image, drawn by its seed; None: all."""
    store_dtype: Literal["float16", "bfloat16", "float32", "int8", "float8"] = "float16"
    """Number format of the store; int8 and float8 (e4m3) have a scale for each vector."""
    thumbnail: Thumbnail = 128
    """Longer side of the kept WebP pictures in pixels; 0 or None keeps none and saves decoding them."""
    shard_samples: Annotated[Whole, Ge(0), Le(10**6)] = 0
    """Images in a file of the store; 0 makes about 256 files, of 128 MB to 1 GB each."""

    def call(self) -> dict[str, Any]:
        """Arguments of `Model.generate` that hold for every image."""
        names = ("steps", "guidance", "negative_prompt", "height", "width", "batch_size")
        return {name: getattr(self, name) for name in names} | {
            "output": "latent" if self.thumbnail is None else "pil"
        }


@validated(kw_only=True)
class CollectOptions(CollectSettings):
    """Which updates of which runs, how many of them, and which part of the work is this process's."""

    limit: Count | None = None
    """At most so many prompts; None: all."""
    progress: bool = True
    """Show a bar."""
    rank: Rank | None = None
    """Number of this process, from 0; None: RANK of the environment, else 0."""
    world: Processes | None = None
    """Number of processes that write the store; None: WORLD_SIZE of the environment, else 1."""
    on_bad: OnBad = "stop"
    """What is done with an image that is not as it should be."""

    @property
    def place(self) -> tuple[int, int]:
        """The number of this process, and of all: as given, or as the environment says."""
        rank, world = ranks().rank if self.rank is None else self.rank, self.world or ranks().world
        if rank >= world:
            raise FieldError("collect", "rank", rank, f"should be less than the number of processes, {world}")
        return rank, world


def schema_of(model: "Model", settings: CollectSettings) -> Schema:
    """The store's schema for a model and settings. Raises UnboxError for what the model does not have."""
    steps, guidance = settings.settled(model.system.steps, model.system.guidance)
    guided = guidance > 1 and model.pipeline.unet.config.time_cond_proj_dim is None
    available = BRANCHES if guided else BRANCHES[:1]
    keep = settings.keep_steps or tuple(range(steps))
    branches = settings.branches or available
    if missing := [step for step in keep if not 0 <= step < steps]:
        raise UnboxError(f"step {missing[0]} is not of a run of {steps} steps; they are 0 to {steps - 1}")
    if absent := [branch for branch in branches if branch not in available]:
        raise UnboxError(
            f"branches: {absent[0]} does not occur at guidance {guidance:g}; there is {', '.join(available)}"
        )
    sides = (settings.height or model.size, settings.width or model.size)
    return Schema(
        blocks={name: _block_shape(model, name, *sides) for name in dict.fromkeys(settings.blocks)},
        steps=tuple(sorted(set(keep))),
        branches=tuple(branch for branch in available if branch in branches),
        dtype=settings.store_dtype,
        positions=settings.positions,
        shard_samples=settings.shard_samples,
    )


def _block_shape(model: "Model", name: str, height: int, width: int) -> tuple[int, int, int]:
    """(y, x, channels) of a block's updates for images of `height` x `width` pixels."""
    site, scale = model.site(name), model.pipeline.vae_scale_factor
    return (*site.grid(height // scale, width // scale), getattr(model.block(name), site.width))


def run_facts(model: "Model", settings: CollectSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    """JSON: what must be equal for rows to belong together, and the software and source (versions)."""
    facts = model.fingerprint
    versions = {"libraries": facts.pop("libraries"), "source": facts.pop("source", "")}
    steps, guidance = settings.settled(model.system.steps, model.system.guidance)
    run = {
        "model": facts,
        "steps": steps,
        "guidance": guidance,
        "negative_prompt": settings.negative_prompt,
        "height": settings.height or model.size,
        "width": settings.width or model.size,
        "seed": settings.seed,
        "thumbnail": settings.thumbnail,
    }
    return run, versions
