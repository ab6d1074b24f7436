"""What every method is made of: its networks, noise and batches, and its stages of roles and turns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic

import torch
from torch import Tensor, nn

from unbox.models.systems import System
from unbox.recipes.sdxl.sdxl_settings import TrainingImages
from unbox.recipes.systems.method_settings import Settings
from unbox.recipes.systems.shared_unet import RoleNetwork, RoleNetworks, TextCondition
from unbox.training.data.image_index import IndexRow
from unbox.training.data.latent_encoders import unnormalised
from unbox.training.loop import Step, Turn
from unbox.training.noise import Noise
from unbox.training.optimizers import adamw, muon
from unbox.training.roles import Role


@dataclass(frozen=True)
class MethodBatch:
    """Examples on the device: latents x0 (B, C, H, W) float32, what the UNet is told of them, their rows in
    the list of images, and for preferences the latents of the images that are not preferred."""

    x0: Tensor
    given: TextCondition
    rows: Sequence[IndexRow] = ()
    loser: Tensor | None = None


@dataclass(frozen=True)
class MethodStage:
    """A part of a method that is trained by itself. The role `student` is what the method is for."""

    name: str
    roles: dict[str, Role]
    turns: list[Turn]


@dataclass
class Workbench(Generic[Settings]):
    """What stages are built with."""

    networks: RoleNetworks
    noise: Noise
    """The model's own."""
    settings: Settings
    nothing: TextCondition
    """Of no caption, one example."""
    batch: Callable[[Step], MethodBatch]
    vae: nn.Module
    side: int
    """The smallest side of the maps after the UNet's mid block."""
    images: TrainingImages
    device: torch.device
    parts: dict[str, nn.Module] = field(default_factory=dict)
    """Frozen networks beside the UNet (projector, reward) by what they are for."""

    def unconditional(self, given: TextCondition) -> TextCondition:
        """No caption, for each of a batch; sizes stay."""
        count = len(given.sizes)
        nothing = self.nothing
        return TextCondition(
            nothing.context.expand(count, -1, -1), nothing.pooled.expand(count, -1), given.sizes
        )

    def role(self, module: nn.Module, rate: float | None = None) -> Role:
        """A network that learns by the settings' optimizer; a `rate` of its own: not the student, so that no
        average is kept."""
        settings = self.settings
        optimizer = adamw if settings.optimizer == "adamw" else muon
        ema = settings.ema if rate is None else None
        return Role(module, optimizer, rate or settings.learning_rate, ema, settings.max_grad_norm)

    @cached_property
    def student(self) -> RoleNetwork:
        """What is written in the end."""
        return self.networks.student()

    def times(self, among: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """(count,) drawn among timesteps."""
        among = among.to(self.device)
        return among[torch.randint(len(among), (count,), generator=generator, device=self.device)]

    def any_times(self, count: int, generator: torch.Generator, low: int = 0, high: int = 1000) -> Tensor:
        """(count,) uniform in [low, high)."""
        return torch.randint(low, high, (count,), generator=generator, device=self.device)

    def decode(self, x0: Tensor) -> Tensor:
        """Pictures (B, 3, height, width) in -1..1 of latents; gradients flow."""
        latents = unnormalised(x0, self.vae.config)  # type: ignore[arg-type]  # a VAE's
        latents = latents.to(next(self.vae.parameters()).dtype)
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.networks.half):
            found: Tensor = self.vae.decode(latents, return_dict=False)[0]  # type: ignore[operator]
        return found.float()


#: From a workbench to the stages, each made when the one before it has been trained.
Stages = Callable[[Workbench[Settings]], Iterator[MethodStage]]


@dataclass(frozen=True)
class Method(Generic[Settings]):
    """A recipe: what it is told, what is trained in which order, and how the result is sampled."""

    name: str
    settings: type[Settings]
    stages: Stages[Settings]
    row: Callable[[System, Settings], System]
    """From the model's row to the result's."""
