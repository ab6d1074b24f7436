"""SAEs with random weights."""

import torch
from torch import Tensor

from unbox.sae.model import SAE, Stats


def random_sae(block="mid.0", width=6, latents=12, k=4, seed=0, name=None) -> SAE:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    mean, one = torch.rand(latents, generator=draw) + 0.5, torch.ones(latents)
    return SAE(
        W_enc=normal(latents, width),
        W_dec=torch.nn.functional.normalize(normal(latents, width), dim=1),
        b_pre=normal(width),
        b_lat=normal(latents) / 4,
        k=k,
        block=block,
        name=name or block,
        stats=Stats(mean, one, 2 * one, one / 4),
        update_std=2.5,
    )


def dense(sae: SAE, x: Tensor) -> Tensor:
    """(..., d) -> (..., latents), for checking."""
    return sae.encode(x).dense(sae.latents)
