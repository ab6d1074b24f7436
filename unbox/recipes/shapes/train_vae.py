"""The Shapes VAE: AutoencoderKL, 64x64x3 <-> 32x32x4, no attention, 0.16 M parameters."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from activation_store.files import read_json, write_json
from unbox.recipes.shapes.training_pictures import Pictures
from unbox.recipes.training_loop import StagePlan, train

#: The latents' mean and deviation, measured on the training set after training.
MEASURED = "latents.json"
PLAN = StagePlan(steps=1500, rate=3e-3, warmup=50, ema=0.99, decay_from=0.3)


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        mid_block_add_attention=False,
        sample_size=64,
        scaling_factor=1.0,
        force_upcast=False,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def train_vae(data: Pictures, folder: Path, plan: StagePlan = PLAN, batch: int = 12) -> AutoencoderKL:
    """Fit by L1 + L1 of gradients + MSE + a weak KL; then measure the latents' mean and deviation."""
    torch.manual_seed(plan.seed)
    vae = make_vae()

    def loss(step: int, rng: np.random.Generator, progress: float) -> Tensor:
        x = data.images(rng.integers(len(data), size=batch))
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample.float()
        edges = sum((a - b).abs().mean() for a, b in zip(_edges(x), _edges(y), strict=True))
        return (x - y).abs().mean() + edges + (x - y).square().mean() + 5e-4 * posterior.kl().mean() / 1024

    train("vae", vae, loss, plan, folder)
    vae.eval().requires_grad_(False)
    measured = folder / MEASURED
    if not measured.exists():
        latents = encode(vae, data, np.arange(min(len(data), 2048)))
        mean, std = (x.tolist() for x in (latents.mean((0, 2, 3)), latents.std((0, 2, 3))))
        write_json(measured, {"latents_mean": mean, "latents_std": std})
    vae.register_to_config(**read_json(measured))
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, data: Pictures, index: np.ndarray, batch: int = 64) -> Tensor:
    """Normalised latents (B, 4, 32, 32): unit variance, as the UNet sees them."""
    mean, std = (
        torch.tensor(getattr(vae.config, name)).view(1, 4, 1, 1) for name in ("latents_mean", "latents_std")
    )
    parts = [
        vae.encode(data.images(index[i : i + batch])).latent_dist.mode() for i in range(0, len(index), batch)
    ]
    return (torch.cat(parts) - mean) / std
