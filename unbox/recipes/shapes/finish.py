"""The few-step finish: at pure noise the noise decides what captions leave open, at later steps the picture
does."""

from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from unbox.recipes.shapes.conditions import Given, halved
from unbox.recipes.shapes.deciding_noise import DecidingNoise
from unbox.recipes.shapes.growth import FEW, OBJECT_WEIGHT, Data, draw_times
from unbox.training.loop import Step, TrainingPlan, Turn, train
from unbox.training.noise import Noise
from unbox.training.objectives.diffusion import diffusion_loss
from unbox.training.optimizers import muon
from unbox.training.roles import Role


def train_finish(
    unet: UNet2DConditionModel,
    folder: Path,
    plan: TrainingPlan,
    rate: float,
    accelerator: Accelerator,
    data: Data,
    deciding: DecidingNoise,
) -> None:
    """Half of a batch from nothing but noise (t = 999), by the absolute error of x0, so that edges stay
    sharp; the other half the ordinary loss at later steps."""
    device = accelerator.device
    if device.type == "cpu":  # where the backward pass of fused attention is slow at this size
        unet.set_attn_processor(AttnProcessor())
    noise, later = Noise.sdxl(device), torch.tensor(FEW[1:], device=device)
    first = data.batch // 2
    start = torch.full((first,), FEW[0], device=device)

    def loss(step: Step) -> Tensor:
        latents, conditions = data.latents, data.conditions
        index = torch.randint(len(conditions), (data.batch,), generator=step.generator, device=device)
        scene, mine = index % len(latents), conditions.plain(index[:first])
        sizes = latents.sizes[scene]
        theirs = conditions.batch(index[first:], sizes[first:], step.generator)
        given = Given(
            torch.cat([mine.context, theirs.context]), torch.cat([mine.pooled, theirs.pooled]), sizes
        )
        x0 = latents.x0[scene].float()
        eps = deciding.draw(index[:first], step.generator).view_as(x0[:first])
        t = draw_times(len(index) - first, 0.0, later, step.generator)
        fresh = noise.draw(x0[first:], step.generator)
        x_t = torch.cat([eps, noise.noised(x0[first:], fresh, t)])
        output = given.predict(halved(role.model))(x_t, torch.cat([start, t]))
        places = 1 + OBJECT_WEIGHT / 255 * latents.objects[scene].float()
        error = (noise.clean(eps, output[:first], start) - x0[:first]).abs()
        sharp = (places[:first] * error).mean() / places[:first].mean()
        return sharp + diffusion_loss(lambda *_: output[first:], noise, x0[first:], fresh, t, places[first:])

    role = Role(unet, muon, rate, ema=0.998)
    train({"unet": role}, [Turn("unet", loss)], plan, folder, accelerator)
