"""What a run of `unbox recipe sdxl` costs, before it is run: memory, bytes, hours."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from unbox.capture.estimate import time_text
from unbox.errors import UnboxError
from unbox.memory_limit import memory_limit, size_text
from unbox.models.model import Model
from unbox.recipes.sdxl.sdxl_network import noise_of, prediction_of
from unbox.recipes.sdxl.sdxl_settings import SdxlSettings, TrainingImages, TrainingSettings
from unbox.recipes.sdxl.train_sdxl import (
    buckets_of,
    check_images,
    check_trainable,
    example_loss,
    make_role,
    side_of,
)
from unbox.training.data.latent_cache import CachedExamples, example_bytes
from unbox.training.data.latent_encoders import LatentEncoders
from unbox.training.optimizers import BatchedMuon, matrices_and_rest
from unbox.training.roles import Role
from unbox.training.step_memory import StepMemory, step_memory

Shape = tuple[int, int, int]

#: Steps that are run before one is timed.
WARM = 1


@dataclass(frozen=True)
class TrainingCost:
    """Of each process where not said otherwise."""

    parameters: int
    trained: int
    memory: StepMemory
    """Of weights, optimizer, gradients and activations, at the largest size of images."""
    device: str
    device_bytes: int
    """Of the accelerator; without one, what one request may take of memory."""
    measured_bytes: int | None
    """Most that the accelerator had allocated in the measured step."""
    checkpoint: int
    result: int
    """Bytes of what is trained, in float32, as a LoRA is written."""
    cache: int
    """Bytes of latents and text embeddings of all images; all processes share them."""
    images: int
    epochs: float
    seconds: float | None
    """Of a step, measured; None: it would not fit."""
    steps: int
    gpus: int
    together: int
    """Images of one optimizer step, of all GPUs."""

    def lines(self) -> list[str]:
        """For people."""
        hours = (
            f"{time_text(self.seconds * self.steps)}: {self.steps:,} steps of {time_text(self.seconds)}, one "
            f"measured on {self.device}"
            + (f", assuming that {self.gpus} GPUs do as many at the same pace" if self.gpus > 1 else "")
            if self.seconds is not None
            else f"not known: a step would not fit into the {size_text(self.device_bytes)} of {self.device}"
        )
        measured = f"; measured {size_text(self.measured_bytes)}" if self.measured_bytes else ""
        return [
            f"trained: {self.trained:,} of {self.parameters:,} parameters",
            f"memory: {size_text(self.memory.peak)} of tensors at most in a step{measured}; between steps "
            f"{size_text(self.memory.standing)}. A GPU's library takes about 1 GB more",
            f"checkpoint: {size_text(self.checkpoint)}, twice that while one replaces the last; finished: "
            f"{size_text(self.result)}",
            f"cache: {size_text(self.cache)} for {self.images:,} images",
            f"time: {hours}",
            f"images: {self.together:,} a step, {self.epochs:,.1f} times each",
        ]


def estimate_sdxl(
    model: Model, images: TrainingImages, settings: SdxlSettings, gpus: int = 1
) -> TrainingCost:
    """The cost of a run with so many GPUs, from arithmetic and one measured step; writes nothing.

    Raises UnboxError for what `train_sdxl` refuses before it writes.
    """
    check_trainable(model)
    prediction_of(model, settings)
    source = check_images(images, side_of(model, images))
    sizes, limit = buckets_of(model, images).sizes, images.limit
    count = 0
    for _ in source.images():
        count += 1
        if count == limit:
            break
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    factor, channels = model.pipeline.vae_scale_factor, model.pipeline.unet.config.in_channels
    latent, text = (channels, height // factor, width // factor), LatentEncoders(model).text_shape()
    if settings.shard and gpus == 1:
        raise UnboxError("--shard shares weights among processes: say how many, --gpus")
    memory, role = fake_memory(model, settings, latent, text)
    there = device_bytes_of(model.device)
    seconds, measured = (None, None) if memory.peak > there else _measured(model, settings, latent, text)
    together = settings.batch_size * settings.gradient_accumulation_steps * gpus
    states = state_bytes(role.module, settings)
    if settings.shard:
        memory = states.shared(memory, gpus)
    return TrainingCost(
        parameters=sum(p.numel() for p in role.module.parameters()),
        trained=sum(p.numel() for p in role.trained().values()),
        memory=memory,
        device="cpu" if model.device.type == "cpu" else torch.cuda.get_device_name(model.device),
        device_bytes=there,
        measured_bytes=measured,
        checkpoint=states.checkpoint,
        result=states.weights,
        cache=count * example_bytes(latent, text),
        images=count,
        epochs=settings.max_train_steps * together / count,
        seconds=seconds,
        steps=settings.max_train_steps,
        gpus=gpus,
        together=together,
    )


@dataclass(frozen=True)
class StateBytes:
    """Bytes that follow from the number P of trained parameters, M of them in matrices."""

    weights: int
    """4 P."""
    averages: int
    """4 P where there are averaged weights."""
    moments: int
    """AdamW's two, 8 P, and a counter of 4 bytes for each tensor; Muon keeps one of matrices, 4 M."""

    @property
    def checkpoint(self) -> int:
        """Of a checkpoint's tensors, and of what a process has of them between steps."""
        return self.weights + self.averages + self.moments

    def shared(self, memory: StepMemory, processes: int) -> StepMemory:
        """A step's memory where processes share these states and the gradients, 4 P."""
        standing = memory.standing - round(self.checkpoint * (1 - 1 / processes))
        running = memory.peak - memory.standing - round(self.weights * (1 - 1 / processes))
        return StepMemory(standing, standing + running)


def state_bytes(module: nn.Module, settings: TrainingSettings, averaged: bool | None = None) -> StateBytes:
    """Of a module whose trained parameters are known; `averaged`: None: as the settings say."""
    if averaged is None:
        averaged = settings.ema is not None
    matrices, rest = matrices_and_rest(module)
    inside, outside = (sum(p.numel() for p in some) for some in (matrices, rest))
    if settings.optimizer == "muon":
        moments = 4 * inside + 8 * outside + 4 * len(rest)
    else:
        moments = 8 * (inside + outside) + 4 * (len(matrices) + len(rest))
    weights = 4 * (inside + outside)
    return StateBytes(weights, weights if averaged else 0, moments)


def fake_memory(model: Model, settings: SdxlSettings, latent: Shape, text: Shape) -> tuple[StepMemory, Role]:
    """Memory of a step on images whose latents have this shape (channels, h, w), counted on tensors without
    numbers, and what was trained there. Batches that are accumulated take no more than one."""
    unet = model.pipeline.unet
    with torch.device("meta"):
        role = make_role(type(unet).from_config(unet.config), settings)
    role.optimizers = fused_muon if settings.optimizer == "muon" else fused_adamw

    def make() -> Callable[[], None]:
        role.start()
        return training_step(model, role, settings, latent, text, torch.device("cpu"))

    return step_memory(role.module, make), role


def training_step(
    model: Model, role: Role, settings: SdxlSettings, latent: Shape, text: Shape, device: torch.device
) -> Callable[[], None]:
    """A training step on one batch of noise of these shapes."""
    count, (tokens, width, pooled) = settings.batch_size, text
    noise = noise_of(model, settings, device)
    examples = CachedExamples(
        torch.randn(count, *latent, device=device, dtype=torch.float16),
        torch.randn(count, tokens, width, device=device, dtype=torch.float16),
        torch.randn(count, pooled, device=device, dtype=torch.float16),
        torch.ones(count, 6, device=device),
    )
    nothing = (torch.zeros(1, tokens, width, device=device), torch.zeros(1, pooled, device=device))
    generator = torch.Generator(device)

    def step() -> None:
        example_loss(role.model, noise, examples, nothing, settings, generator).backward()
        role.update(1.0, 0)

    return step


def _measured(model: Model, settings: SdxlSettings, latent: Shape, text: Shape) -> tuple[float, int | None]:
    """Seconds of an optimizer step of one process on the model's device, and the most memory that a GPU had
    allocated in it."""
    device = model.device
    LatentEncoders(model).move("cpu")
    role = make_role(model.unet, settings)
    role.module.to(device)
    role.start()
    step = training_step(model, role, settings, latent, text, device)
    for _ in range(WARM):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - start) * settings.gradient_accumulation_steps
    return seconds, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def device_bytes_of(device: torch.device) -> int:
    """Memory of a GPU; of a CPU what one request may take."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return memory_limit()


def fused_adamw(module: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """AdamW as it is on a GPU: its plain form reads a counter, which has no number here."""
    return [torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=rate, fused=True)]


def fused_muon(module: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon, and AdamW as it is on a GPU for the rest."""
    matrices, rest = matrices_and_rest(module)
    return [BatchedMuon(matrices, rate), torch.optim.AdamW(rest, lr=rate, fused=True)]
