"""`unbox recipe sdxl`: from images and a model to a LoRA or a model, by the one training loop.

OUT/cache/          latents and text embeddings of the images (or where --cache says)
OUT/training/       the last checkpoint
OUT/losses.jsonl    the moving mean of the loss, a line each 50 steps
OUT/lora/           the finished LoRA, for `unbox generate --lora`
OUT/model/          with --full: the finished model, a diffusers folder
"""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from torch import Tensor, nn

from activation_store.files import write_text
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.models.bf16_support import multiplies_bf16
from unbox.models.model import Model
from unbox.models.prompt_length import count_cut, describe_cut
from unbox.recipes.sdxl.sdxl_network import (
    noise_of,
    prediction_of,
    prepared,
    trained_row,
    write_lora,
    write_model,
)
from unbox.recipes.sdxl.sdxl_settings import SdxlSettings, TrainingImages, TrainingSettings
from unbox.run_folder import RunFolder, named, refuse_others, run_folder
from unbox.sae.safetensors_io import read_tensors
from unbox.text_files import lines_of, parse_json_text
from unbox.training.data.aspect_buckets import AspectBuckets, Crop
from unbox.training.data.bucket_sampler import BucketSampler
from unbox.training.data.captioned_image import ImageSource
from unbox.training.data.image_sources import open_images
from unbox.training.data.latent_cache import CachedExamples, LatentCache
from unbox.training.data.latent_encoders import LatentEncoders
from unbox.training.loop import Step, TrainingPlan, Turn, finished, train
from unbox.training.noise import Noise
from unbox.training.objectives.diffusion import diffusion_loss
from unbox.training.optimizers import adamw, muon
from unbox.training.roles import Role
from unbox.validation import Amount, checked

COMMAND = "recipe sdxl"
#: Settings that change no number of what is learned.
FREE = ("save_minutes", "shard", "gradient_checkpointing")
T = TypeVar("T")


def check_trainable(model: Model) -> None:
    """Raise UnboxError for models that are not trained here."""
    pipeline = model.pipeline
    if model.refiner is not None or getattr(pipeline, "text_encoder", None) is None:
        raise UnboxError(f"{model.source}: a base model is trained, not a refiner or an ensemble with one")
    if pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels:
        raise UnboxError(f"{model.source}: its UNet takes more than latents (inpainting, say)")
    if model.adapters:
        raise UnboxError(
            f"{model.source} samples with a LoRA ({', '.join(model.adapters)}), which training would learn "
            "around: train its base, and put both over it afterwards"
        )


def side_of(model: Model, images: TrainingImages) -> int:
    """Side of a square training image. Raises UnboxError for one that the UNet cannot halve."""
    side, unit = images.resolution or model.size, unit_of(model)
    if side % unit:
        raise UnboxError(f"--resolution = {side}: should be a multiple of {unit} for this model")
    return side


def unit_of(model: Model) -> int:
    """Pixels of which every side is a multiple: the VAE's factor times all halvings of the UNet."""
    levels = len(model.pipeline.unet.config.block_out_channels)
    return int(model.pipeline.vae_scale_factor * 2 ** (levels - 1))


def buckets_of(model: Model, images: TrainingImages) -> AspectBuckets:
    """The sizes that images are cut to."""
    return AspectBuckets.of(side_of(model, images), unit_of(model), images.square)


def check_images(images: TrainingImages, side: int = 64) -> ImageSource:
    """The images that are learned, shapes drawn at `side` pixels; none is opened. Raises UnboxError where
    there is nothing, before a model is loaded."""
    if images.data is None:
        raise UnboxError(
            "say what to learn from: --data FOLDER, tars, hub:NAME or shapes (or a --recipe file)"
        )
    return open_images(
        images.data, side, limit=images.limit, seed=images.data_seed, split=images.split,
        caption=images.caption, column=images.caption_column,
    )  # fmt: skip


def train_sdxl(
    model: Model, images: TrainingImages, settings: SdxlSettings, out: Path, progress: bool = True
) -> Path:
    """Train, and write the LoRA or the model; returns its folder. Goes on with what `out` holds.

    Under torchrun or `accelerate launch` every process calls it with its own copy of the model. Raises
    UnboxError, before anything is written, for images, models and settings that do not fit, and for a folder
    that holds another run.
    """
    check_trainable(model)
    prediction_of(model, settings)
    source, buckets = check_images(images, side_of(model, images)), buckets_of(model, images)
    accelerator = accelerator_of(model)
    with ExitStack() as stack:
        folder = from_first(accelerator, lambda: stack.enter_context(run_folder(out, COMMAND)))
        run = SdxlRun(model, images, settings, out, accelerator, buckets)
        run.prepare(source, folder, progress)
        return run.train()


def accelerator_of(model: Model) -> Accelerator:
    """What the processes work together by. Raises UnboxError where `accelerate` is configured for what this
    recipe does otherwise, or computes on another GPU than the model's."""
    found = Accelerator(cpu=model.device.type == "cpu")
    own = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if found.distributed_type not in own or found.scaler is not None:
        raise UnboxError(
            f"accelerate is configured for {found.distributed_type.value.lower()} with mixed precision "
            f"{found.mixed_precision}: here weights are shared by --full --shard, and computed with as "
            "--mixed-precision says; launch it with plain data parallelism"
        )
    if model.device.type == "cuda" and (model.device.index or 0) != (found.device.index or 0):
        raise UnboxError(
            f"--device {model.device}: training takes this process's own GPU, {found.device}; choose cards "
            "with CUDA_VISIBLE_DEVICES"
        )
    return found


def from_first(accelerator: Accelerator, make: Callable[[], T]) -> T | None:
    """What the first process makes, None in the others; its UnboxError is raised in all of them."""
    made: T | None = None
    found: list[UnboxError | None] = [None]
    if accelerator.is_main_process:
        try:
            made = make()
        except UnboxError as error:
            found = [error]
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    if found[0] is not None:
        raise found[0]
    return made


@dataclass
class ImageRun:
    """One training on cached images in a folder: what is asked, compared and encoded before it."""

    model: Model
    images: TrainingImages
    settings: TrainingSettings
    out: Path
    accelerator: Accelerator
    buckets: AspectBuckets
    unconditional: tuple[Tensor, Tensor] = field(init=False)
    """Context (1, tokens, width) and pooled (1, width) of no caption, on the device, float32."""
    stored: torch.dtype = field(init=False)
    """Type of the UNet's weights as it was loaded."""
    command: ClassVar[str] = COMMAND

    @property
    def cache(self) -> LatentCache:
        folder = self.images.cache or self.out / "cache"
        crop: Crop = "random" if self.images.random_crop else "center"
        return LatentCache(folder, self.buckets, crop, self.settings.seed)

    def prepare(self, source: ImageSource, folder: RunFolder | None, progress: bool) -> None:
        """Compare the folder with what is asked, and fill the cache."""
        encoders, cache, main = LatentEncoders(self.model), self.cache, self.accelerator.is_main_process
        identity = self.model.identity if main else ""

        def begin() -> None:
            assert folder is not None
            wanted = self._facts(identity)
            refuse_others(self.out, self.command, folder.recorded(), wanted)
            cache.begin(source, encoders, self.images.limit)
            record = cache.record()
            folder.claim({**wanted, "images": named(f"{sum(record.counts):,} images", record.images)})
            cut, count = count_cut(self.model, (row.caption for row in cache.index.rows()))
            if cut:
                print(f"note: {describe_cut(self.model, cut, count)}")
            if self.settings.mixed_precision == "bf16" and not multiplies_bf16(self.accelerator.device):
                print(
                    "note: bfloat16 is emulated on this processor, ten times as slow as float32 and more; "
                    "--mixed-precision no computes in float32, in twice the memory"
                )

        with ExitStack() as stack:
            from_first(self.accelerator, lambda: stack.enter_context(run_folder(cache.folder, COMMAND)))
            from_first(self.accelerator, begin)
            rank, world = self.accelerator.process_index, self.accelerator.num_processes
            if not finished(self.out / "training"):
                cache.encode(source, encoders, rank, world, progress and main)
            self.accelerator.wait_for_everyone()
        context, pooled = encoders.unconditional()
        device = self.accelerator.device
        self.unconditional = (context.float().to(device), pooled.float().to(device))
        self.stored = self.model.dtype
        encoders.move("cpu")
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def _facts(self, identity: str) -> dict[str, JSON]:
        """What must be the same for a run to go on, by name."""
        chosen = {name: value for name, value in vars(self.settings).items() if name not in FREE}
        return {
            "model": named(self.model.system.name, identity),
            **chosen,
            "resolution": [list(size) for size in self.buckets.sizes],
            "random_crop": self.images.random_crop,
            "processes": self.accelerator.num_processes,
        }

    def plan(self) -> TrainingPlan:
        """How long and how fast."""
        settings = self.settings
        return TrainingPlan(
            settings.max_train_steps,
            settings.lr_warmup_steps,
            settings.decay_from,
            settings.seed % 2**31,
            settings.gradient_accumulation_steps,
            60 * settings.save_minutes,
        )

    def batches(self, cache: LatentCache) -> "CachedBatches":
        """The batches of a cache, for this process."""
        settings, accelerator = self.settings, self.accelerator
        sampler = BucketSampler(
            cache.record().counts, settings.batch_size, accelerator.num_processes, settings.seed
        )
        return CachedBatches(cache, sampler, accelerator, settings.gradient_accumulation_steps)


@dataclass
class SdxlRun(ImageRun):
    """A run of `unbox recipe sdxl`."""

    settings: SdxlSettings

    def train(self) -> Path:
        """Train and write the result."""
        settings, folder = self.settings, self.out / "training"
        role = make_role(self.model.unet, settings)
        noise = noise_of(self.model, settings, self.accelerator.device)
        with self.batches(self.cache) as batches:

            def loss(step: Step) -> Tensor:
                examples = batches.at(step.number, step.part)
                return example_loss(role.model, noise, examples, self.unconditional, settings, step.generator)

            turns = [Turn("unet", loss)]
            train(
                {"unet": role},
                turns,
                self.plan(),
                folder,
                self.accelerator,
                log=LossLog(self.out / "losses.jsonl"),
            )
        return self._write(role.module, folder)

    def _write(self, unet: nn.Module, folder: Path) -> Path:
        place = self.out / ("model" if self.settings.full else "lora")
        if self.accelerator.is_main_process:
            if self.settings.full:
                tensors = read_tensors(folder / "unet.safetensors")
                weights = {name.removeprefix("average."): tensor for name, tensor in tensors.items()}
                row = trained_row(self.model, self.settings, self.out.name)
                write_model(self.model, weights, place, row, self.stored)
            else:
                write_lora(unet, place, self.settings)  # type: ignore[arg-type]  # it is a UNet
        self.accelerator.wait_for_everyone()
        return place


def make_role(unet: nn.Module, settings: SdxlSettings) -> Role:
    """The UNet, ready to be trained, with its optimizer."""
    prepared(unet, settings)  # type: ignore[arg-type]  # a pipeline's unet is one
    optimizer = adamw if settings.optimizer == "adamw" else muon
    return Role(unet, optimizer, settings.learning_rate, settings.ema, settings.max_grad_norm, settings.shard)


def example_loss(
    unet: Callable[..., tuple[Tensor, ...]],
    noise: Noise,
    examples: CachedExamples,
    unconditional: tuple[Tensor, Tensor],
    settings: SdxlSettings,
    generator: torch.Generator,
) -> Tensor:
    """The diffusion loss of a batch on its device, a scalar: noise, timesteps and which captions are left out
    from the generator."""
    x0 = examples.latents.float()
    device, count = x0.device, len(x0)
    eps = noise.draw(x0, generator)
    t = torch.randint(len(noise.abar), (count,), generator=generator, device=device)
    kept = torch.rand(count, generator=generator, device=device) >= settings.caption_dropout
    context = torch.where(kept[:, None, None], examples.context.float(), unconditional[0])
    pooled = torch.where(kept[:, None], examples.pooled.float(), unconditional[1])
    added = {"text_embeds": pooled, "time_ids": examples.sizes}

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.mixed_precision == "bf16"):
            return unet(x_t, t, context, added_cond_kwargs=added, return_dict=False)[0].float()

    with torch.autocast(device.type, enabled=False):
        return diffusion_loss(predict, noise, x0, eps, t)


class CachedBatches:
    """Batches from a cache, each read while the one before it is learned."""

    def __init__(
        self, cache: LatentCache, sampler: BucketSampler, accelerator: Accelerator, accumulate: int
    ) -> None:
        self.cache, self.sampler, self.accumulate = cache, sampler, accumulate
        self.rank, self.device = accelerator.process_index, accelerator.device
        self.pool = ThreadPoolExecutor(1)
        self.next: dict[int, Future[CachedExamples]] = {}

    def __enter__(self) -> "CachedBatches":
        return self

    def __exit__(self, *raised: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def at(self, step: int, part: int) -> CachedExamples:
        """The batch of a step (and of a part of it), on the device."""
        number = step * self.accumulate + part
        now = self.next.pop(number, None) or self.pool.submit(self._read, number)
        self.next = {number + 1: self.pool.submit(self._read, number + 1)}
        return now.result().to(self.device)

    def places(self, step: int, part: int) -> tuple[int, np.ndarray]:
        """Bucket, and the numbers in it, of the examples of a batch."""
        return self.sampler.rows(step * self.accumulate + part, self.rank)

    def _read(self, number: int) -> CachedExamples:
        return self.cache.examples(*self.sampler.rows(number, self.rank))


@dataclass(frozen=True)
class LossLog:
    """Lines of losses in a file; those of steps that a stopped run had done in vain are replaced."""

    path: Path

    def __call__(self, step: int, losses: Mapping[str, float]) -> None:
        """Write the line of a step."""
        lines = list(lines_of(self.path)) if self.path.exists() else []
        kept = [line for number, line in enumerate(lines, 1) if self._step(line, number) < step]
        told = {"loss": losses["unet"]} if set(losses) == {"unet"} else losses
        line = json.dumps({"step": step, **told})
        write_text(self.path, "".join([*kept, f"{line}\n"]))

    def _step(self, line: str, number: int) -> int:
        where = f"line {number} of {self.path}"
        found = parse_json_text(line, where)
        return checked(Amount, "step", found.get("step") if isinstance(found, dict) else None, where)
