"""Distilling the Shapes base model to one to four steps: on its own samples, and on real pictures."""

from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from unbox.recipes.shapes.train_text_encoders import tokenize
from unbox.recipes.shapes.train_unet import (
    OBJECT_WEIGHT,
    TURBO_STEPS,
    Condition,
    Conditions,
    Diffusion,
    make_scheduler,
    make_unet,
    predict,
)
from unbox.recipes.shapes.training_pictures import Pictures
from unbox.recipes.training_loop import StagePlan, train
from unbox.sae.safetensors_io import write_tensors

TURBO = StagePlan(steps=200_000, minutes=15, rate=1e-3, warmup=100, ema=0.998, decay_from=0.3)


@torch.no_grad()
def sample(unet: UNet2DConditionModel, condition: Condition, noise: Tensor, steps: int) -> Tensor:
    """Deterministic Euler samples (B, 4, 32, 32) from unit noise."""
    scheduler = make_scheduler()
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        v = predict(unet, scheduler.scale_model_input(x, t), torch.full((len(x),), int(t)), condition)
        x = scheduler.step(v, t, x).prev_sample
    return x


def make_pairs(
    unet: UNet2DConditionModel,
    data: Pictures,
    conditions: Conditions,
    folder: Path,
    n: int,
    steps: int = 6,
    batch: int = 64,
    seed: int = 11,
) -> dict[str, Tensor]:
    """(noise seed -> the base model's own sample) for fresh captions, kept in parts so that it resumes.

    Gives `noise` seeds (n,), `latents` (n, 4, 32, 32) and the captions' token `ids`.
    """
    parts, batch = [], min(batch, n)
    for part in tqdm(range(0, n, batch), desc="pairs", unit="batch", mininterval=5):
        file = Path(folder) / "pairs" / f"{part:06d}.safetensors"
        if not file.exists():
            rng, seeds = np.random.default_rng([seed, part]), torch.arange(part, part + batch)
            captions = data.captions(rng.integers(len(data), size=batch), rng, partial=0.6)
            x0 = sample(unet, conditions(captions), pair_noise(seeds), steps).half().contiguous()
            ids = tokenize(conditions.tokenizer, captions)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(file, {"ids": ids, "latents": x0, "noise": seeds})
        parts.append(load_file(file))
    return {key: torch.cat([p[key] for p in parts]) for key in parts[0]}


def pair_noise(seeds: Tensor) -> Tensor:
    """Unit noise (n, 4, 32, 32) of each pair, made again from its seed."""
    return torch.stack(
        [torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(int(s))) for s in seeds]
    )


def distill_turbo(
    base: UNet2DConditionModel,
    data: Pictures,
    latents: Tensor,
    conditions: Conditions,
    pairs: dict[str, Tensor],
    folder: Path,
    plan: StagePlan = TURBO,
    batch: int = 32,
) -> UNet2DConditionModel:
    """The few-step finish, at the four timesteps alone.

    At t=999: absolute error (its optimum is a median, which keeps the edges of jittered objects sharp)
    to the base model's own sample from the same noise, or, for full captions, to a real picture.
    At the later steps: the ordinary loss on real pictures.
    """
    unet = make_unet()
    unet.load_state_dict(base.state_dict())
    unet.set_attn_processor(AttnProcessor())
    diffusion = Diffusion()
    pairs_drawn, pure = batch * 3 // 8, batch // 8
    first = pairs_drawn + pure  # the rest are at the later steps

    def loss(step: int, rng: np.random.Generator, progress: float) -> Tensor:
        pair = rng.integers(len(pairs["ids"]), size=pairs_drawn)
        index = rng.integers(len(data), size=batch - pairs_drawn)
        full = data.captions(index[:pure], rng, partial=0.0)
        mixed = data.captions(index[pure:], rng, partial=0.5)
        with torch.no_grad():
            a = conditions.text(pairs["ids"][pair])
            b = conditions.dropped([*full, *mixed], rng)
        condition = (torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]]))
        x0 = torch.cat([pairs["latents"][pair].float(), latents[index].float()])
        eps = torch.cat([pair_noise(pairs["noise"][pair]), torch.randn(len(index), 4, 32, 32)])
        late = torch.from_numpy(rng.choice(TURBO_STEPS[1:], size=batch - first))
        t = torch.cat([torch.full((first,), 999), late])
        # The sampler starts from noise alone, without the trace of x0 that the schedule leaves at t=999.
        x_t = torch.where((t == 999).view(-1, 1, 1, 1), eps, diffusion.noised(x0, eps, t))
        v = predict(unet, x_t, t, condition)
        weight = torch.cat([torch.ones(len(pair), 1, 32, 32) * 2, 1 + OBJECT_WEIGHT * data.objects(index)])
        sharp = (weight[:first] * (diffusion.clean(x_t, v, t) - x0)[:first].abs()).mean()
        later = (weight[first:] * (v - diffusion.velocity(x0, eps, t))[first:].square()).mean()
        return sharp + later

    train("unet-turbo", unet, loss, plan, folder)
    return unet.eval().requires_grad_(False)
