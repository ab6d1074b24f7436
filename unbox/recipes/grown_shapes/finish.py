"""The few-step finish: the many-step model's own samples decide at pure noise, pictures at the later
steps."""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from unbox.recipes.grown_shapes.conditions import CaptionStates, Given, halved
from unbox.recipes.grown_shapes.growth import FEW, OBJECT_WEIGHT, Data
from unbox.recipes.grown_shapes.networks import LATENT
from unbox.recipes.grown_shapes.sampling import sample
from unbox.training.loop import Step, TrainingPlan, Turn, train
from unbox.training.noise import Noise
from unbox.training.objectives.diffusion import diffusion_loss
from unbox.training.optimizers import muon
from unbox.training.roles import Role


@dataclass(frozen=True)
class NoisePairs:
    """On a device: unit noise and the many-step model's own sample from it, (n, 4, 32, 32) float16; the
    caption's index (n,); whether it mentions everything (n,)."""

    eps: Tensor
    x0: Tensor
    caption: Tensor
    full: Tensor

    def __len__(self) -> int:
        return len(self.caption)


@torch.no_grad()
def make_pairs(
    unet: nn.Module,
    conditions: CaptionStates,
    full: Tensor,
    n: int,
    steps: int,
    guidance: float,
    seed: int,
    chunk: int = 1024,
) -> NoisePairs:
    """`full` (captions,): which of them mention everything."""
    device = conditions.context.device
    generator = torch.Generator(device).manual_seed(seed)
    caption = torch.randint(len(conditions), (n,), generator=generator, device=device)
    eps = torch.randn(n, 4, LATENT, LATENT, generator=generator, device=device).half()
    x0 = torch.empty_like(eps)
    for i in range(0, n, chunk):
        rows = slice(i, i + chunk)
        x0[rows] = sample(
            unet, conditions.plain(caption[rows]), eps[rows].float(), steps, guidance=guidance
        ).half()
    return NoisePairs(eps, x0, caption, full[caption])


def train_finish(
    unet: UNet2DConditionModel,
    folder: Path,
    plan: TrainingPlan,
    rate: float,
    accelerator: Accelerator,
    data: Data,
    pairs: NoisePairs,
) -> None:
    """At t = 999, five eighths of a batch: the x0 of a pair, by absolute error where the caption says
    everything
    (edges stay sharp), by squared error where it leaves things open (what is undecided stays so, for the
    later steps to decide). At 749, 499 and 249: the ordinary loss on pictures."""
    device = accelerator.device
    noise = Noise.sdxl(device)
    latents, conditions, batch = data.latents, data.conditions, data.batch
    first = batch * 5 // 8
    later = torch.tensor(FEW[1:], device=device)
    start = torch.full((first,), FEW[0], device=device)

    def loss(step: Step) -> Tensor:
        pick = torch.randint(len(pairs), (first,), generator=step.generator, device=device)
        index = torch.randint(len(conditions), (batch - first,), generator=step.generator, device=device)
        scene, mine = index % len(latents), conditions.plain(pairs.caption[pick])
        theirs = conditions.batch(index, latents.sizes[scene], step.generator)
        both = Given(
            *(torch.cat([getattr(mine, k), getattr(theirs, k)]) for k in ("context", "pooled", "sizes"))
        )
        x0, eps = latents.x0[scene].float(), pairs.eps[pick].float()
        t = later[torch.randint(len(later), (len(index),), generator=step.generator, device=device)]
        fresh = noise.draw(x0, step.generator)
        x_t = torch.cat([eps, noise.noised(x0, fresh, t)])
        output = both.predict(halved(role.model))(x_t, torch.cat([start, t]))
        error = (noise.clean(eps, output[:first], start) - pairs.x0[pick].float()).abs()
        decided = pairs.full[pick].view(-1, 1, 1, 1)
        sharp = torch.where(decided, error, error.square()).mean()
        places = 1 + OBJECT_WEIGHT / 255 * latents.objects[scene].float()
        return sharp + diffusion_loss(lambda *_: output[first:], noise, x0, fresh, t, places)

    role = Role(unet, muon, rate, ema=0.998)
    train({"unet": role}, [Turn("unet", loss)], plan, folder, accelerator)
