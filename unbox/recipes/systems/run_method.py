"""`unbox recipe turbo | lightning | novelai | ncp | distar`: from images and a model to a LoRA or a model.

OUT/cache/             latents and text embeddings of the images (or where --cache says)
OUT/losers/            those of the images that are not preferred (with --cache FOLDER: FOLDER-losers)
OUT/training/STAGE/    the last checkpoint of each stage
OUT/losses-STAGE.jsonl the moving mean of each role's loss, a line each 50 steps
OUT/lora/              the finished LoRA, with the row that its base is sampled by
OUT/model/             with --full: the finished model, a diffusers folder
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from unbox.errors import UnboxError
from unbox.models.model import Model
from unbox.models.systems import System
from unbox.recipes.sdxl.sdxl_network import model_noise, write_lora, write_model
from unbox.recipes.sdxl.sdxl_settings import TrainingImages, TrainingSettings
from unbox.recipes.sdxl.train_sdxl import (
    CachedBatches,
    ImageRun,
    LossLog,
    accelerator_of,
    buckets_of,
    check_images,
    check_trainable,
    from_first,
    side_of,
    unit_of,
)
from unbox.recipes.systems.method_settings import DistarSettings, NcpSettings, NovelaiSettings, Settings
from unbox.recipes.systems.ncp import check_losers
from unbox.recipes.systems.shared_unet import RoleNetworks, TextCondition
from unbox.recipes.systems.workbench import Method, MethodBatch, MethodStage, Workbench
from unbox.run_folder import run_folder
from unbox.training.data.captioned_image import ImageSource
from unbox.training.data.image_index import IndexRow
from unbox.training.data.image_sources import open_images
from unbox.training.data.latent_cache import LatentCache
from unbox.training.data.latent_encoders import LatentEncoders
from unbox.training.loop import Step, train


def train_method(
    method: Method[Settings],
    model: Model,
    images: TrainingImages,
    settings: Settings,
    out: Path,
    progress: bool = True,
) -> Path:
    """Train, and write the LoRA or the model; returns its folder. Goes on with what `out` holds.

    Raises UnboxError, before anything is written, for images, models and settings that do not fit, and for a
    folder that holds another run.
    """
    check_method(model, settings)
    source, buckets = check_images(images, side_of(model, images)), buckets_of(model, images)
    losers = losers_of(images, settings, side_of(model, images))
    accelerator = accelerator_of(model)
    run = MethodRun(model, images, settings, out, accelerator, buckets)
    run.command = f"recipe {method.name}"  # type: ignore[misc]  # of this run
    with ExitStack() as stack:
        folder = from_first(accelerator, lambda: stack.enter_context(run_folder(out, run.command)))
        run.prepare(source, folder, progress)
        if losers is not None:
            run.prepare_losers(losers, progress)
        return run.train_stages(method)


def check_method(model: Model, settings: TrainingSettings) -> None:
    """Raise UnboxError for a model that a method cannot train."""
    check_trainable(model)
    kind = model_noise(model, torch.device("cpu")).kind
    if isinstance(settings, NcpSettings):
        check_losers(settings)
    if isinstance(settings, NovelaiSettings) and not settings.full and kind != "v_prediction":
        raise UnboxError(f"{model.source} predicts {kind}: a LoRA keeps that, --full learns v")


def losers_of(images: TrainingImages, settings: TrainingSettings, side: int) -> ImageSource | None:
    """The images that are not preferred. Raises UnboxError for what is not there."""
    if not isinstance(settings, NcpSettings) or settings.losers is None:
        return None
    shapes = settings.losers == "shapes"
    if shapes and images.data != "shapes":
        raise UnboxError(
            "--losers shapes changes the scenes of --data shapes; name a folder for other images"
        )
    return open_images(
        settings.losers, side, limit=images.limit if shapes else None, seed=images.data_seed,
        split=images.split, caption=images.caption, column=images.caption_column, changed=shapes,
    )  # fmt: skip


@dataclass
class MethodRun(ImageRun):
    """A run of a method."""

    command: ClassVar[str] = "recipe"
    loser_cache: LatentCache | None = field(default=None, init=False)

    def prepare_losers(self, source: ImageSource, progress: bool) -> None:
        """Fill their cache. Raises UnboxError where they are not pairs with the images."""
        shared = self.images.cache
        place = self.out / "losers" if shared is None else shared.with_name(f"{shared.name}-losers")
        cache = LatentCache(place, self.buckets, self.cache.crop, self.settings.seed)
        encoders, accelerator = LatentEncoders(self.model), self.accelerator

        def begin() -> None:
            cache.begin(source, encoders, self.images.limit)
            check_pairs(self.cache, cache)

        with ExitStack() as stack:
            from_first(accelerator, lambda: stack.enter_context(run_folder(cache.folder, self.command)))
            from_first(accelerator, begin)
            if cache.missing():
                encoders.move(accelerator.device)
            cache.encode(source, encoders, accelerator.process_index, accelerator.num_processes, progress)
            accelerator.wait_for_everyone()
        encoders.move("cpu")
        self.loser_cache = cache

    def train_stages(self, method: Method[Settings]) -> Path:
        """Train each stage and write the result."""
        settings: Settings = self.settings  # type: ignore[assignment]  # the method's
        with ExitStack() as stack:
            bench = workbench(self.model, self.images, settings, self.accelerator.device, self.nothing)
            examples = stack.enter_context(self.batches(self.cache))
            losers = self.loser_cache and stack.enter_context(self.batches(self.loser_cache))
            rewarded = isinstance(settings, DistarSettings) and settings.reward is not None
            rows = self.cache.rows() if rewarded else None
            bench.batch = MethodBatches(examples, losers or None, rows).at
            for stage in seeded(method.stages(bench), settings.seed):
                if bench.parts:  # networks that look at pictures
                    bench.vae.to(bench.device)
                log = LossLog(self.out / f"losses-{stage.name}.jsonl")
                folder = self.out / "training" / stage.name
                train(stage.roles, stage.turns, self.plan(), folder, self.accelerator, log=log)
        return self._write(bench, method.row(self.model.system, settings))

    @property
    def nothing(self) -> TextCondition:
        """Of no caption."""
        context, pooled = self.unconditional
        return TextCondition(context, pooled, torch.zeros(1, 6, device=context.device))

    def _write(self, bench: Workbench[Settings], row: System) -> Path:
        place = self.out / ("model" if self.settings.full else "lora")
        row = replace(
            row, name=self.out.name, base=None, parts=(), verified=f"trained by `unbox {self.command}`"
        )
        if self.accelerator.is_main_process:
            unet = bench.student.shared.unet
            if self.settings.full:
                write_model(self.model, unet.state_dict(), place, row, self.stored)
            else:
                write_lora(unet, place, self.settings, row)
        self.accelerator.wait_for_everyone()
        return place


def seeded(stages: Iterator[MethodStage], seed: int) -> Iterator[MethodStage]:
    """The stages, each made with a random state of its own, so that first weights are the seed's."""
    number = 0
    while True:
        with torch.random.fork_rng([]):
            torch.manual_seed((seed * 1009 + number) % 2**63)
            stage = next(stages, None)
        if stage is None:
            return
        yield stage
        number += 1


def workbench(
    model: Model,
    images: TrainingImages,
    settings: Settings,
    device: torch.device,
    nothing: TextCondition,
    unet: UNet2DConditionModel | None = None,
) -> Workbench[Settings]:
    """What a method's stages are built with, of a model (or of another UNet of its kind); its batches are to
    be given."""

    def none(step: Step) -> MethodBatch:
        raise AssertionError("a workbench without batches")

    base = model.pipeline.unet if unet is None else unet
    if isinstance(settings, NovelaiSettings) and settings.from_nothing and unet is None:
        with torch.random.fork_rng([]):
            torch.manual_seed(settings.seed % 2**63)
            base.load_state_dict(type(base).from_config(base.config).state_dict())
    vae = model.pipeline.vae.requires_grad_(False)
    shortest = min(min(size) for size in buckets_of(model, images).sizes)
    return Workbench(
        RoleNetworks(base, settings), model_noise(model, device), settings, nothing, none, vae,
        max(1, shortest // unit_of(model)), images, device,
    )  # fmt: skip


def check_pairs(winners: LatentCache, losers: LatentCache) -> None:
    """Raise UnboxError, naming the first, where two caches are not of the same captions and sizes in one
    order."""
    for bucket, (first, second) in enumerate(zip(winners.rows(), losers.rows(), strict=True)):
        for one, other in zip(first, second, strict=False):
            if Path(one.key).stem != Path(other.key).stem or one.caption != other.caption:
                raise UnboxError(
                    f"--losers: {other.key} ('{other.caption}') stands where --data has {one.key} "
                    f"('{one.caption}'): pairs have one name, caption and shape (or give --square)"
                )
        if len(first) != len(second):
            size = "x".join(map(str, winners.buckets.sizes[bucket]))
            raise UnboxError(
                f"--losers: {len(second)} images of {size}, and {len(first)} of --data: pairs have one name, "
                "caption and shape (or give --square)"
            )


class MethodBatches:
    """Batches of a cache, and of the losers beside it, as methods take them; a step's turns share one."""

    def __init__(
        self, examples: CachedBatches, losers: CachedBatches | None, rows: list[list[IndexRow]] | None
    ) -> None:
        """`rows`: of each bucket, where a method reads them."""
        self.examples, self.losers, self.rows = examples, losers, rows
        self.last: tuple[tuple[int, int], MethodBatch] | None = None

    def at(self, step: Step) -> MethodBatch:
        """The batch of a step and a part of it."""
        key = (step.number, step.part)
        if self.last is None or self.last[0] != key:
            found = self.examples.at(*key)
            bucket, numbers = self.examples.places(*key)
            loser: Tensor | None = None
            if self.losers is not None:
                loser = self.losers.at(*key).latents.float()
            given = TextCondition(found.context.float(), found.pooled.float(), found.sizes)
            rows = [] if self.rows is None else [self.rows[bucket][number] for number in numbers.tolist()]
            self.last = (key, MethodBatch(found.latents.float(), given, rows, loser))
        return self.last[1]
