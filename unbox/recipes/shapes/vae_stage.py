"""The VAE: pictures to latents and back; measured on pictures that it has not seen."""

import math
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch import Tensor

from activation_store.files import read_json, write_json
from unbox.models.bf16_support import bf16_products
from unbox.recipes.shapes.networks import SIDE, make_vae
from unbox.recipes.shapes.world import encode_views, resized, views
from unbox.shapes.render_torch import draw
from unbox.shapes.scene_table import sample_table
from unbox.training.loop import Step, TrainingPlan, Turn, train
from unbox.training.optimizers import muon
from unbox.training.roles import Role

#: The latents' mean and deviation, measured after training.
MEASURED = "latents.json"


@torch.no_grad()
def picture_pool(n: int, seed: int, device: torch.device, plain: bool = False) -> Tensor:
    """`n` training pictures, as `views` has them or plain: (n, 3, 128, 128) uint8 on the device."""
    table = sample_table(n, seed)
    sides, corners = views(n, seed)
    pool = torch.empty(n, 3, SIDE, SIDE, dtype=torch.uint8, device=device)
    for i in range(0, n, 512):
        rows = np.arange(i, min(i + 512, n))
        corner = None if plain else torch.from_numpy(corners[rows]).float() * 64 / SIDE
        pool[i : i + len(rows)] = (
            (draw(table[rows], SIDE, corner, device).pictures * 255).round().to(torch.uint8)
        )
    if not plain:
        for side in np.unique(sides[sides < SIDE]):
            for rows in np.array_split(np.flatnonzero(sides == side), max(1, n // 4096)):
                where = torch.from_numpy(rows).to(device)
                pool[where] = (resized(pool[where].float(), int(side))).round().to(torch.uint8)
    return pool


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def train_vae(
    folder: Path, plan: TrainingPlan, accelerator: Accelerator, n: int, batch: int, rate: float
) -> AutoencoderKL:
    """Fit by L1 + L1 of gradients + MSE + a weak KL; then measure the latents' mean and deviation."""
    torch.manual_seed(plan.seed)
    vae, device = make_vae(), accelerator.device
    pool = picture_pool(n, 1, device)
    weight = torch.tensor(5e-4 / (4 * 32 * 32), device=device)

    def loss(step: Step) -> Tensor:
        index = torch.randint(n, (batch,), generator=step.generator, device=device)
        x = pool[index].float() / 127.5 - 1
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=step.generator, device=device)
        y = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        edges = sum((a - b).abs().mean() for a, b in zip(_edges(x), _edges(y), strict=True))
        return (x - y).abs().mean() + edges + (x - y).square().mean() + weight * posterior.kl().float().mean()

    role = Role(vae, muon, rate, ema=0.995)
    train({"vae": role}, [Turn("vae", loss)], plan, folder, accelerator)
    vae.eval().requires_grad_(False)
    measured = folder.parent / MEASURED
    if not measured.exists():
        x0 = encode_views(vae, sample_table(min(n, 4096), 1), 1, device).x0.float()
        write_json(
            measured, {"latents_mean": x0.mean((0, 2, 3)).tolist(), "latents_std": x0.std((0, 2, 3)).tolist()}
        )
    vae.register_to_config(**read_json(measured))
    return vae


@torch.no_grad()
def fidelity(vae: AutoencoderKL, device: torch.device, n: int = 256) -> float:
    """Peak signal-to-noise ratio of held-out pictures, encoded and decoded, in decibels."""
    errors = []
    for i in range(0, n, 64):
        x = draw(sample_table(n, 900, "heldout")[np.arange(i, min(i + 64, n))], SIDE, device=device).pictures
        with bf16_products(device):
            y = vae.decode(vae.encode(x * 2 - 1).latent_dist.mode()).sample.float()
        errors.append((((y + 1) / 2).clamp(0, 1) - x).square().mean((1, 2, 3)))
    return -10 * math.log10(float(torch.cat(errors).mean()))
