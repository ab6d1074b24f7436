"""The many-step UNet, grown from its deep blocks outwards, so that those blocks do the work.

A transformer that is absent returns its input; one that is added starts with zero output (`proj_out` zero),
so that nothing changes when it comes. Which ones are there first decides which ones draw (`docs/LOG.md`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from unbox.recipes.shapes.conditions import CaptionStates, halved
from unbox.recipes.shapes.world import Latents
from unbox.training.loop import Step, TrainingPlan, Turn, train
from unbox.training.noise import Noise
from unbox.training.objectives.diffusion import diffusion_loss
from unbox.training.optimizers import muon
from unbox.training.roles import Role

#: Every transformer block, by its short name: where it lies in the UNet.
BLOCKS = {
    **{f"down.{i}.{j}": f"down_blocks.{i}.attentions.{j}" for i in (1, 2) for j in (0, 1)},
    "mid.0": "mid_block.attentions.0",
    **{f"up.{i}.{j}": f"up_blocks.{i}.attentions.{j}" for i in (0, 1) for j in (0, 1, 2)},
}

#: The few-step model's timesteps.
FEW = (999, 749, 499, 249)
OBJECT_WEIGHT = 4.0


def block(unet: UNet2DConditionModel, name: str) -> nn.Module:
    """The transformer of a short name."""
    return unet.get_submodule(BLOCKS[name])


def _pass(hidden_states: Tensor, *_: object, **__: object) -> tuple[Tensor]:
    return (hidden_states,)


def leave_out(unet: UNet2DConditionModel, names: Iterable[str]) -> None:
    """Let blocks return their input, untrained."""
    for name in names:
        module = block(unet, name)
        module.forward = _pass
        module.requires_grad_(False)


def renew(unet: UNet2DConditionModel, names: Iterable[str]) -> None:
    """Let blocks forget what they have learned."""
    for name in sorted(names):
        for module in block(unet, name).modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm, nn.GroupNorm)):
                module.reset_parameters()


def bring_in(unet: UNet2DConditionModel, names: Iterable[str], zero: bool = True) -> None:
    """Let blocks work and learn, from zero output on if `zero`."""
    for name in names:
        module = block(unet, name)
        module.__dict__.pop("forward", None)
        module.requires_grad_(True)
        if zero:
            for parameter in module.get_submodule("proj_out").parameters():
                nn.init.zeros_(parameter)


def draw_times(n: int, pure: float, later: Tensor, generator: torch.Generator) -> Tensor:
    """Timesteps (n,): a share `pure` at 999, the rest leaning towards noise, where the caption decides,
    half of them among `later`, the few-step model's."""
    device = later.device
    spread = 999 * (1 - torch.rand(n, generator=generator, device=device) ** 1.5)
    few = later[torch.randint(len(later), (n,), generator=generator, device=device)]
    t = torch.where(torch.rand(n, generator=generator, device=device) < 0.5, spread.long(), few)
    return torch.where(torch.rand(n, generator=generator, device=device) < pure, 999, t)


@dataclass(frozen=True)
class Data:
    """The training set on the device: `conditions` are those of the scenes' captions, set after set."""

    latents: Latents
    conditions: CaptionStates
    batch: int


def train_growth_stage(
    unet: UNet2DConditionModel,
    folder: Path,
    plan: TrainingPlan,
    rate: float,
    accelerator: Accelerator,
    data: Data,
    first: bool,
    enough: Callable[[int], bool] | None = None,
    ema: float = 0.995,
) -> None:
    """Ordinary v-prediction with what is present; pixels of objects weighted; half of the captions
    partial."""
    device = accelerator.device
    if device.type == "cpu":  # where the backward pass of fused attention is slow at this size
        unet.set_attn_processor(AttnProcessor())
    noise, later = Noise.sdxl(device), torch.tensor(FEW[1:], device=device)

    def loss(step: Step) -> Tensor:
        latents = data.latents
        index = torch.randint(len(data.conditions), (data.batch,), generator=step.generator, device=device)
        scene = index % len(latents)
        given = data.conditions.batch(index, latents.sizes[scene], step.generator)
        x0 = latents.x0[scene].float()
        t = draw_times(data.batch, 0.5 if first and step.number < 200 else 0.25, later, step.generator)
        places = 1 + OBJECT_WEIGHT / 255 * latents.objects[scene].float()
        return diffusion_loss(
            given.predict(halved(role.model)), noise, x0, noise.draw(x0, step.generator), t, places
        )

    role = Role(unet, muon, rate, ema=ema)
    train({"unet": role}, [Turn("unet", loss)], plan, folder, accelerator, enough)
