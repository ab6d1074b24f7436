"""What is collected: the settings that collecting, streaming and estimating share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from activation_store import Schema
from unbox.errors import UnboxError
from unbox.models.sampling_options import SamplingOptions
from unbox.site import BRANCHES, DEFAULT_BLOCKS

if TYPE_CHECKING:
    from unbox.models.model import Model

#: Names of settings that were others.
FORMER = {"dtype": "store_dtype"}


@dataclass(frozen=True)
class CollectSettings(SamplingOptions):
    """Which updates of which runs."""

    blocks: tuple[str, ...] = DEFAULT_BLOCKS
    """Blocks to record."""
    seed: int = 0
    """Seed of the run; an image's follows from it and the prompt's number, whatever the batches and ranks."""
    keep_steps: tuple[int, ...] | None = None
    """Steps to keep, by the scheduler's own numbers from 0; None: all."""
    branches: tuple[Literal["cond", "uncond"], ...] | None = None
    """Branches to keep; None: all there are: cond, and uncond under guidance."""
    positions: int | None = None
    """Positions kept of each image, drawn by its seed; None: all."""
    store_dtype: Literal["float16", "bfloat16", "float32", "int8"] = "float16"
    """Number format of the store; int8 has a scale for each vector."""
    thumbnail: int | None = 128
    """Longer side of the kept WebP pictures in pixels; 0 or None keeps none and saves decoding them."""
    shard_samples: int = 0
    """Images in a file of the store; 0 makes files of about 128 MB."""

    def __post_init__(self) -> None:
        for name in ("blocks", "keep_steps", "branches"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, (value,) if isinstance(value, str | int) else tuple(value))
        object.__setattr__(self, "thumbnail", self.thumbnail or None)
        if self.batch_size < 1 or (self.thumbnail is not None and self.thumbnail < 1):
            raise UnboxError("the batch size and the thumbnails' side must be at least 1")

    def call(self) -> dict[str, Any]:
        """Arguments of `Model.generate` that hold for every image."""
        names = ("steps", "guidance", "negative_prompt", "height", "width", "batch_size")
        return {name: getattr(self, name) for name in names} | {
            "output": "latent" if self.thumbnail is None else "pil"
        }


def schema_of(model: "Model", settings: CollectSettings) -> Schema:
    """The store's schema for a model and settings. Raises UnboxError for what the model does not have."""
    steps, guidance = settings.settled(model.system.steps, model.system.guidance)
    guided = guidance > 1 and model.pipeline.unet.config.time_cond_proj_dim is None
    available = BRANCHES if guided else BRANCHES[:1]
    if steps < 1:
        raise UnboxError(f"{steps} steps make no image; there is at least 1")
    keep = settings.keep_steps or tuple(range(steps))
    branches = settings.branches or available
    if missing := [step for step in keep if not 0 <= step < steps]:
        raise UnboxError(f"step {missing[0]} is not of a run of {steps} steps; they are 0 to {steps - 1}")
    if absent := [branch for branch in branches if branch not in available]:
        raise UnboxError(
            f"branch {absent[0]} does not occur at guidance {guidance:g}; there is {', '.join(available)}"
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
