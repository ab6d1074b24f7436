"""Sampling latents in batches on a device, as diffusers' Euler schedulers with `trailing` timesteps do."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from unbox.models.bf16_support import bf16_products
from unbox.recipes.shapes.conditions import Given
from unbox.training.noise import Noise


@torch.no_grad()
def sample(
    unet: nn.Module,
    given: Given,
    eps: Tensor,
    steps: int,
    generator: torch.Generator | None = None,
    guidance: float = 1.0,
    chunk: int = 1024,
) -> Tensor:
    """Latents (B, 4, 32, 32) from unit noise: Euler, or Euler ancestral where there is a generator.
    Guidance over 1 doubles the cost, as everywhere."""
    parts = []
    for i in range(0, len(eps), chunk):
        rows = slice(i, i + chunk)
        parts.append(_sample(unet, given[rows], eps[rows], steps, generator, guidance))
    return torch.cat(parts)


def _sample(
    unet: nn.Module, given: Given, eps: Tensor, steps: int, generator: torch.Generator | None, guidance: float
) -> Tensor:
    abar = Noise.sdxl().abar
    times = [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]
    sigmas = [float(((1 - abar[t]) / abar[t]).sqrt()) for t in times] + [0.0]
    x = eps * sigmas[0]
    predict = given.predict(unet)
    nothing = Given(given.context * 0, given.pooled * 0, given.sizes).predict(unet)
    for t, sigma, after in zip(times, sigmas[:-1], sigmas[1:], strict=True):
        root = (sigma**2 + 1) ** 0.5
        time = torch.full((len(x),), t, device=x.device)
        with bf16_products(x.device):
            v = predict(x / root, time)
            if guidance != 1.0:
                v = (free := nothing(x / root, time)) + guidance * (v - free)
        x0 = x / (sigma**2 + 1) - v * sigma / root
        up = (after**2 * (sigma**2 - after**2) / sigma**2) ** 0.5 if generator is not None else 0.0
        down = (after**2 - up**2) ** 0.5
        x = x0 + (x - x0) * (down / sigma)
        if up:
            x = x + up * torch.randn(x.shape, generator=generator, device=x.device)
    return x


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor, chunk: int = 512) -> Tensor:
    """Pictures (B, 3, 128, 128) in 0..1 of normalised latents."""
    device = latents.device
    mean, std = (
        torch.tensor(getattr(vae.config, k), device=device).view(1, 4, 1, 1)
        for k in ("latents_mean", "latents_std")
    )
    parts = []
    for part in (latents * std + mean).split(chunk):
        with bf16_products(device):
            parts.append(vae.decode(part).sample.float())
    return ((torch.cat(parts) + 1) / 2).clamp(0, 1)
