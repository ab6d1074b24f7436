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
from torch import Tensor, nn

from unbox.recipes.grown_shapes.conditions import CaptionStates, halved
from unbox.recipes.grown_shapes.world import Latents
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
SHALLOW = ("down.1.0", "down.1.1", "up.1.0", "up.1.1", "up.1.2")


@dataclass(frozen=True)
class GrowthStage:
    """Blocks that come, and how the UNet trains with them."""

    blocks: tuple[str, ...]
    share: float
    """Of the base's minutes, at most."""
    rate: float
    words: tuple[str, ...] = ()
    """Factors that captions may now mention besides those of the stages before; none anywhere: all,
    always."""
    until: float | None = None
    """Share of each of `words` (of everything, where there are none) right at one step at which the next
    stage comes; None: all of its time."""
    frozen: bool = False
    """Whether the blocks that were there before keep their weights."""


_LAST = (GrowthStage(("down.2.0", "up.0.2"), 0.07, 2e-3), GrowthStage(SHALLOW, 0.4, 2e-3))


def _by_words(frozen: bool, fourth: float) -> tuple[GrowthStage, ...]:
    """Each block comes together with the words of some factors: what it draws is what it was there to
    learn."""
    return (
        GrowthStage(("down.2.1",), 0.12, 3e-3, ("position", "relation", "size"), 0.95),
        GrowthStage(("mid.0",), 0.12, 3e-3, ("background", "light"), 0.95, frozen),
        GrowthStage(("up.0.1",), 0.14, 3e-3, ("colour", "texture"), 0.95, frozen),
        GrowthStage(("up.0.0",), fourth, 3e-3, ("shape",), None, frozen),
        *_LAST,
    )


#: The orders in which blocks come, tried against each other.
ORDERS: dict[str, tuple[GrowthStage, ...]] = {
    "words-frozen": _by_words(True, 0.15),
    "words": _by_words(False, 0.15),
    "middle-first": (
        GrowthStage(("mid.0", "up.0.0"), 0.26, 3e-3, until=0.75),
        GrowthStage(("down.2.1", "up.0.1"), 0.27, 3e-3), *_LAST,
    ),
    "one-by-one": (
        GrowthStage(("mid.0",), 0.13, 3e-3, until=0.55), GrowthStage(("down.2.1",), 0.12, 3e-3, until=0.7),
        GrowthStage(("up.0.0",), 0.13, 3e-3, until=0.8), GrowthStage(("up.0.1",), 0.15, 3e-3), *_LAST,
    ),
    "four-first": (GrowthStage(("down.2.1", "mid.0", "up.0.0", "up.0.1"), 0.53, 3e-3), *_LAST),
}  # fmt: skip


def said_by(order: str, i: int) -> tuple[str, ...]:
    """The factors that captions may mention in a stage; none named: all."""
    stages = ORDERS[order]
    said = tuple(word for stage in stages[: i + 1] for word in stage.words)
    every = {word for stage in stages for word in stage.words}
    return () if set(said) == every else said


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
