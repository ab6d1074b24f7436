"""The few-step finish: at pure noise the noise decides what captions leave open, at later steps the picture
does.

The absolute error keeps edges sharp, and its best answer between two values is the likelier one alone: a rule
of the noise that is read a little has no say until it outvotes. Between the two sizes of an object nothing
was ever learned so. The squared error's best answer is their mean, which moves with the least that is read
(`docs/LOG.md`): captions that leave the size open have that one.
"""

from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from unbox.recipes.shapes.conditions import Given, halved
from unbox.recipes.shapes.deciding_noise import DECIDED, DecidingNoise
from unbox.recipes.shapes.growth import FEW, OBJECT_WEIGHT, Data, draw_times
from unbox.training.loop import Step, TrainingPlan, Turn, train
from unbox.training.noise import Noise
from unbox.training.objectives.diffusion import diffusion_loss
from unbox.training.optimizers import muon
from unbox.training.roles import Role

#: Share of the captions at pure noise that leave the size open; of all captions one in five does.
OPEN_SIZES = 0.5
SIZE = DECIDED.index("0.size")
#: Learning rate of batches of so many captions and more; of fewer by the square root of their share, as is
#: the deviation of their gradients (2205.10287, for optimizers whose steps have a length of their own).
RATE, FULL_BATCH = 1e-3, 256


def finish_rate(batch: int) -> float:
    """The learning rate of batches of so many captions."""
    return RATE * min(1.0, batch / FULL_BATCH) ** 0.5


def draw_captions(free: Tensor, captions: int, first: int, batch: int, generator: torch.Generator) -> Tensor:
    """Captions of a batch (batch,): of the `first`, at pure noise, a share `OPEN_SIZES` are among `free`
    (m,), those that leave the size open; the others of all."""
    device, count = free.device, int(OPEN_SIZES * first) if len(free) else 0
    every = torch.randint(captions, (batch - count,), generator=generator, device=device)
    if not count:
        return every
    return torch.cat([free[torch.randint(len(free), (count,), generator=generator, device=device)], every])


def pure_noise_loss(x0: Tensor, truth: Tensor, open_size: Tensor, places: Tensor) -> Tensor:
    """Of x0 as predicted and as it is (B, C, H, W): the mean over places (B, 1, H, W), each counted by its
    weight, of the squared error where the size is open (B,) bool, of the absolute error elsewhere; a
    scalar."""
    error = x0 - truth
    error = torch.where(open_size.view(-1, 1, 1, 1), error.square(), error.abs())
    return (places * error).mean() / places.mean()


def train_finish(
    unet: UNet2DConditionModel,
    folder: Path,
    plan: TrainingPlan,
    accelerator: Accelerator,
    data: Data,
    deciding: DecidingNoise,
) -> None:
    """Half of a batch from nothing but noise (t = 999), by the error of x0; the other half the ordinary loss
    at later steps."""
    device = accelerator.device
    if device.type == "cpu":  # where the backward pass of fused attention is slow at this size
        unet.set_attn_processor(AttnProcessor())
    noise, later = Noise.sdxl(device), torch.tensor(FEW[1:], device=device)
    first = data.batch // 2
    start = torch.full((first,), FEW[0], device=device)
    free = deciding.free[:, SIZE].nonzero()[:, 0]  # once: a count of them waits for the device

    def loss(step: Step) -> Tensor:
        latents, conditions = data.latents, data.conditions
        index = draw_captions(free, len(conditions), first, data.batch, step.generator)
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
        open_size = deciding.free[index[:first], SIZE]
        few = pure_noise_loss(noise.clean(eps, output[:first], start), x0[:first], open_size, places[:first])
        return few + diffusion_loss(lambda *_: output[first:], noise, x0[first:], fresh, t, places[first:])

    role = Role(unet, muon, finish_rate(data.batch), ema=0.998)
    train({"unet": role}, [Turn("unet", loss)], plan, folder, accelerator)
