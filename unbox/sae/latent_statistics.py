"""Sums over rows from which figures of an SAE and of its latents are made."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from unbox.sae.model import SAE, Stats

#: Rows encoded at a time.
ROWS = 4096


@dataclass
class LatentSums:
    """Sums over rows for each latent, (n,) float64."""

    rows: float
    active: Tensor
    value: Tensor
    square: Tensor
    largest: Tensor

    @classmethod
    def zero(cls, latents: int, device: torch.device | str = "cpu") -> "LatentSums":
        """Nothing seen yet."""
        return cls(0, *(torch.zeros(latents, dtype=torch.float64, device=device) for _ in range(4)))

    def add(self, values: Tensor, indices: Tensor, rows: float) -> None:
        """Count the codes (..., k) of some rows; those that are 0 count for nothing."""
        self.rows += rows
        place = self.active.device
        ids, values = indices.reshape(-1).to(place), values.reshape(-1).to(place).double()
        self.active.index_add_(0, ids, (values > 0).double())
        self.value.index_add_(0, ids, values)
        self.square.index_add_(0, ids, values.square())
        self.largest.scatter_reduce_(0, ids, values, "amax")

    def stats(self) -> Stats:
        """Per-latent statistics of the rows seen."""
        count = self.active.clamp_min(1)
        mean = self.value / count
        std = (self.square / count - mean.square()).clamp_min(0).sqrt()
        density = self.active / max(1, self.rows)
        return Stats(*(one.float().cpu() for one in (mean, std, self.largest, density)))


@torch.no_grad()
def latent_stats(sae: SAE, parts: Iterable[Tensor]) -> Stats:
    """Statistics of an SAE's latents over parts (B, d) of rows."""
    sums = LatentSums.zero(sae.latents)
    for x in parts:
        codes = sae.encode(x)
        sums.add(codes.values, codes.indices, codes.values[..., 0].numel())
    return sums.stats()


@torch.no_grad()
def calibrated(sae: SAE, x: Tensor) -> SAE:
    """The SAE with the threshold over which k latents of a row of x (N, d) are active on average."""
    from unbox.sae import topk

    values = [
        topk.by_batch(part.to(sae.W_enc) - sae.b_pre, sae.W_enc, sae.b_lat, sae.k)[1]
        for part in x.split(ROWS * 8)
    ]
    least = [v.min() for v in (v[v > 0] for v in values) if len(v)]
    return sae.with_threshold(float(torch.stack(least).mean()) if least else 0.0)
