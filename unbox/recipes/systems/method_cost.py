"""What a run of a method costs, before it is run: memory, bytes, hours. Of the last stage, whose networks are
the most; writes nothing."""

import copy
import time
from collections.abc import Callable
from itertools import islice
from typing import Generic

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from unbox.models.model import Model
from unbox.recipes.sdxl.sdxl_cost import (
    StateBytes,
    TrainingCost,
    device_bytes_of,
    fused_adamw,
    fused_muon,
    state_bytes,
)
from unbox.recipes.sdxl.sdxl_settings import TrainingImages
from unbox.recipes.sdxl.train_sdxl import buckets_of, check_images, side_of
from unbox.recipes.systems.method_settings import Settings
from unbox.recipes.systems.run_method import check_method, losers_of, seeded, workbench
from unbox.recipes.systems.shared_unet import TextCondition
from unbox.recipes.systems.workbench import Method, MethodBatch, MethodStage, Workbench
from unbox.training.data.captioned_image import ImageSource
from unbox.training.data.image_index import IndexRow
from unbox.training.data.latent_cache import example_bytes
from unbox.training.data.latent_encoders import LatentEncoders
from unbox.training.loop import Step
from unbox.training.step_memory import StepMemory, step_memory

Shape = tuple[int, int, int]


def estimate_method(
    method: Method[Settings], model: Model, images: TrainingImages, settings: Settings, gpus: int = 1
) -> TrainingCost:
    """The cost of a run with so many GPUs, from arithmetic and one measured step.

    Raises UnboxError for what `train_method` refuses before it writes.
    """
    check_method(model, settings)
    source = check_images(images, side_of(model, images))
    pairs = losers_of(images, settings, side_of(model, images)) is not None
    count = sum(1 for _ in islice(source.images(), images.limit))
    height, width = max(buckets_of(model, images).sizes, key=lambda size: size[0] * size[1])
    factor, channels = model.pipeline.vae_scale_factor, model.pipeline.unet.config.in_channels
    latent, text = (channels, height // factor, width // factor), LatentEncoders(model).text_shape()
    trial = MethodTrial(method, model, images, settings, latent, text, pairs, source)
    memory = trial.fake()
    stages, states = trial.stages, trial.states
    there = device_bytes_of(model.device)
    seconds, measured = (None, None) if memory.peak > there else trial.measured()
    together = settings.batch_size * settings.gradient_accumulation_steps * gpus
    steps = settings.max_train_steps * stages
    return TrainingCost(
        parameters=sum(p.numel() for p in model.pipeline.unet.parameters()),
        trained=sum(each.weights for each in states.values()) // 4,
        memory=memory,
        device="cpu" if model.device.type == "cpu" else torch.cuda.get_device_name(model.device),
        device_bytes=there,
        measured_bytes=measured,
        checkpoint=sum(each.checkpoint for each in states.values()),
        result=states["student"].weights,
        cache=count * example_bytes(latent, text) * (2 if pairs else 1),
        images=count,
        epochs=steps * together / count,
        seconds=seconds,
        steps=steps,
        gpus=gpus,
        together=together,
    )


class MethodTrial(Generic[Settings]):
    """A method's networks with batches of noise: one step of its last stage, on numbers or without."""

    def __init__(
        self,
        method: Method[Settings],
        model: Model,
        images: TrainingImages,
        settings: Settings,
        latent: Shape,
        text: Shape,
        pairs: bool,
        source: ImageSource,
    ) -> None:
        self.method, self.model, self.images, self.settings = method, model, images, settings
        self.latent, self.text, self.pairs = latent, text, pairs
        listed = islice(source.images(), settings.batch_size)
        rows = [IndexRow(i.key, i.caption, i.size, i.stamp, 8, 8, i.place) for i in listed]
        self.rows = (rows * settings.batch_size)[: settings.batch_size]
        self.stages = 0
        self.states: dict[str, StateBytes] = {}

    def stage(
        self, unet: UNet2DConditionModel, vae: nn.Module, device: torch.device
    ) -> tuple[MethodStage, Workbench[Settings]]:
        """The last stage, of these networks, and its workbench."""
        count, (tokens, width, pooled) = self.settings.batch_size, self.text

        def given(n: int) -> TextCondition:
            context = torch.randn(n, tokens, width, device=device)
            return TextCondition(
                context, torch.randn(n, pooled, device=device), torch.ones(n, 6, device=device)
            )

        bench = workbench(self.model, self.images, self.settings, device, given(1), unet)
        bench.vae = vae
        drawn = [torch.randn(count, *self.latent, device=device) for _ in range(1 + self.pairs)]
        batch = MethodBatch(drawn[0], given(count), self.rows, drawn[1] if self.pairs else None)
        bench.batch = lambda step: batch
        stages = list(seeded(self.method.stages(bench), self.settings.seed))
        self.stages = len(stages)
        last = stages[-1]
        self.states = {
            name: state_bytes(role.module, self.settings, role.ema is not None)
            for name, role in last.roles.items()
        }
        return last, bench

    def fake(self) -> StepMemory:
        """Memory of a step, on tensors without numbers."""
        pipeline, cpu = self.model.pipeline, torch.device("cpu")
        with torch.device("meta"):
            unet = type(pipeline.unet).from_config(pipeline.unet.config)
        vae = copy.deepcopy(pipeline.vae).requires_grad_(False).to("meta")
        stage, bench = self.stage(unet, vae, cpu)
        for role in stage.roles.values():
            role.optimizers = fused_muon if self.settings.optimizer == "muon" else fused_adamw
        modules = [*bench.networks.unets, *(role.module for role in stage.roles.values())]
        if bench.parts:
            modules.append(vae)
        counted = step_memory(nn.ModuleList(modules), lambda: whole_step(stage, cpu))
        looking = sum(
            p.numel() * p.element_size() for each in bench.parts.values() for p in each.parameters()
        )
        return StepMemory(counted.standing + looking, counted.peak + looking)

    def measured(self) -> tuple[float, int | None]:
        """Seconds of an optimizer step of one process on the model's device, and the most memory that a GPU
        had allocated in it. The model is not the same afterwards."""
        device = self.model.device
        LatentEncoders(self.model).move("cpu")
        vae = self.model.pipeline.vae.requires_grad_(False)
        stage, _ = self.stage(self.model.pipeline.unet, vae, device)
        vae.to(device)
        for role in stage.roles.values():
            role.module.to(device)
        step = whole_step(stage, device)
        step()  # the optimizers' states are made
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = (time.perf_counter() - start) * self.settings.gradient_accumulation_steps
        return seconds, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def whole_step(stage: MethodStage, device: torch.device) -> Callable[[], None]:
    """All turns of a step, as often as they come, each on one batch."""
    for role in stage.roles.values():
        role.start()
    generator = torch.Generator(device)
    last = 10**9  # beyond the steps that methods begin with

    def step() -> None:
        for turn in stage.turns:
            turn.loss(Step(last, 1.0, generator)).backward()
            stage.roles[turn.role].update(1.0, 0)
            for role in stage.roles.values():
                role.module.zero_grad(set_to_none=True)

    return step
