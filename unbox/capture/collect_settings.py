"""What is collected: the settings that collecting, streaming and estimating share."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import BeforeValidator

from activation_store import Schema, SiteLayout
from unbox.errors import FieldError, UnboxError
from unbox.models.sampling_options import PromptOptions, SamplingOptions
from unbox.ranks import ranks
from unbox.site import BRANCHES, DEFAULT_BLOCKS, LAYER_KINDS, AskedKind, SiteName
from unbox.validation import Count, Index, Processes, Rank, Seed, Some, StepIndex, Whole, validated

if TYPE_CHECKING:
    from unbox.models.model import Model
    from unbox.site import Site

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

    blocks: Some[SiteName] = DEFAULT_BLOCKS
    """Blocks to record; and other sites: refiner.mid.0, text.2.30 (a layer of a text encoder),
    vae.decoder.up.0."""
    what: Some[AskedKind] = ("update",)
    """What is kept of each: update (output minus input), input, output, skip (the connection that enters
    before a block of the up side), what attention heads write (self_heads, cross_heads; heads: both), the
    feed-forward part of its layers (ff_input, ff_output). Each block gives those that it has."""
    layers: Some[Index] | None = None
    """Transformer layers of each block, for heads and feed-forward parts; None: all."""
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

    @property
    def of_texts(self) -> bool:
        """Whether only text encoders are recorded: prompts are encoded then, and no images are made."""
        return all(name.startswith("text.") for name in self.blocks)

    @property
    def pictures(self) -> int | None:
        """Longer side of the pictures that are kept, None for none."""
        return None if self.of_texts else self.thumbnail

    @property
    def decoded(self) -> bool:
        """Whether images are decoded by the VAE."""
        return self.pictures is not None or any(name.startswith("vae.") for name in self.blocks)

    def call(self) -> dict[str, Any]:
        """Arguments of `Model.generate` that hold for every image."""
        names = ["steps", "guidance", "negative_prompt", "height", "width", "batch_size"]
        names += vars(PromptOptions())
        return {name: getattr(self, name) for name in names} | {"output": "pil" if self.decoded else "latent"}


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
        return place_of(self.rank, self.world)


def place_of(rank: int | None, world: int | None) -> tuple[int, int]:
    """The number of this process, and of all: as given, or as the environment says."""
    rank, world = ranks().rank if rank is None else rank, world or ranks().world
    if rank >= world:
        raise FieldError("collect", "rank", rank, f"should be less than the number of processes, {world}")
    return rank, world


def schema_of(model: "Model", settings: CollectSettings) -> Schema:
    """The store's schema for a model and settings. Raises UnboxError for what the model does not have."""
    from unbox.capture.activations import activations_of, shape_of
    from unbox.models.checks import check_pictures

    check_pictures(model.pipeline)
    if model.system.image_to_image:
        raise UnboxError(
            f"{model.system.name} refines pictures, which prompts do not bring: give them to "
            "model.generate(..., image=...) inside unbox.record(model, ...)"
        )
    activations = activations_of(model, settings.blocks, settings.what, settings.layers)
    _refuse_idle(settings, {activation.site.component for activation in activations})
    steps, guidance = settings.settled(model.system.steps, model.system.guidance)
    guided = guidance > 1 and model.pipeline.unet.config.time_cond_proj_dim is None
    available = BRANCHES if guided else BRANCHES[:1]
    branches: Sequence[str] = settings.branches or available
    if absent := [branch for branch in branches if branch not in available]:
        raise UnboxError(
            f"branches: {absent[0]} does not occur at guidance {guidance:g}; there is {', '.join(available)}"
        )
    kept = _kept_steps(model, settings, steps, {activation.site.component for activation in activations})
    first = next((kept[name] for name in ("unet", "refiner") if name in kept), (0,))
    branches = tuple(branch for branch in available if branch in branches)
    sides = settings.size(model.size)
    return Schema(
        blocks={activation.name: shape_of(model, activation, *sides) for activation in activations},
        steps=first,
        branches=branches if kept else BRANCHES[:1],
        dtype=settings.store_dtype,
        positions=settings.positions,
        shard_samples=settings.shard_samples,
        sites={
            activation.name: _layout(activation.site, kept, first, branches if kept else BRANCHES[:1])
            for activation in activations
        },
    )


def _layout(
    site: "Site", kept: Mapping[str, tuple[int, ...]], steps: tuple[int, ...], branches: tuple[str, ...]
) -> SiteLayout:
    """What a store says of a site, whose other blocks have these steps and branches."""
    own = (0,) if site.once else kept[site.component]
    return SiteLayout(
        site.layout,
        site.stream,
        None if own == steps else own,
        BRANCHES[:1] if site.once and branches != BRANCHES[:1] else None,
    )


def _kept_steps(
    model: "Model", settings: CollectSettings, steps: int, components: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """UNet -> the steps that are kept of it: in an ensemble the refiner goes on at the split."""
    from unbox.models.split import first_refined

    split = first_refined(model, steps)
    ran = {"unet": range(split), "refiner": range(split, steps)}
    keep = set(settings.keep_steps or range(steps))
    if beyond := [step for step in sorted(keep) if step >= steps]:
        raise UnboxError(f"step {beyond[0]} is not of a run of {steps} steps; they are 0 to {steps - 1}")
    kept = {name: tuple(sorted(keep & set(ran[name]))) for name in ("unet", "refiner") if name in components}
    for step in sorted(keep) if settings.keep_steps else ():
        if kept and not any(step in some for some in kept.values()):
            other = "refiner" if step >= split else "unet"
            raise UnboxError(
                f"step {step} is one of the {other}'s, {ran[other].start} to {ran[other].stop - 1}, of which "
                "nothing is recorded; the refiner's blocks are sites like refiner.mid.0"
            )
    for name, some in kept.items():
        if not some:
            raise UnboxError(f"the {name} runs none of the steps {sorted(keep)}; see --keep-steps")
    return kept


def _refuse_idle(settings: CollectSettings, components: Collection[str]) -> None:
    """Raise UnboxError for options that would do nothing, and sites that do not run, for these networks."""
    if any(name.startswith("vae.encoder") for name in settings.blocks):
        raise UnboxError(
            "images are made from noise, which the VAE's encoder has no part in: record it around "
            "a pipeline that is given pictures (unbox.record)"
        )
    names = ("steps", "guidance", "negative_prompt", "height", "width", "keep_steps", "branches")
    idle = [name for name in names if getattr(settings, name) is not None]
    if settings.of_texts and idle:
        raise UnboxError(
            f"only text encoders are recorded, so no images are made: leave out {idle[0]}, which would do "
            "nothing"
        )
    if (asked := settings.unusual()) and {"text_encoder", "text_encoder_2"} & set(components):
        raise UnboxError(
            f"text encoders are recorded as the pipeline itself runs them: leave {next(iter(asked))} out, or "
            "their sites"
        )
    per_layer = {*LAYER_KINDS, "heads"} & set(settings.what)
    if settings.layers is not None and (not per_layer or settings.of_texts):
        raise UnboxError(f"layers are chosen for {', '.join(LAYER_KINDS)} of blocks; none is recorded")
    if (settings.keep_steps or settings.branches) and not {"unet", "refiner"} & set(components):
        raise UnboxError("text encoders and the VAE run once an image: leave out keep_steps and branches")


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
        **settings.unusual(),
        "height": settings.height or model.size,
        "width": settings.width or model.size,
        "seed": settings.seed,
        "thumbnail": settings.pictures,
    }
    return run, versions
