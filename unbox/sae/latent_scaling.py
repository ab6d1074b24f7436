"""Latent scaling: is a crosscoder's latent of one source really in none of the others?

After Minder et al. (arXiv 2504.02922): a decoder that is small in one source may be an artifact of training,
the feature being there all the same, unreconstructed (in that source's error) or reconstructed by other
latents. So each latent's code is regressed on what a source has beside it,

    beta_s = argmin_beta sum over rows |y_s - beta f_j u_j|^2 = sum f_j u_j . y_s / (|u_j|^2 sum f_j^2)

along u_j, its direction in the source where its decoder is the largest. y_s is the error plus the latent's
own part (`error`), or the reconstruction without the latent (`reconstruction`). nu, the ratio of the other
source's beta to its own source's, is near 0 where the latent is of one source alone, near 1 where it is in
both. Rows are divided by their source's deviation throughout, as the crosscoder has them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unbox.errors import UnboxError
from unbox.sae.crosscoder import Crosscoder

#: Rows whose codes are multiplied out at a time.
SLICE = 512


@dataclass(frozen=True, eq=False)
class LatentScaling:
    """Betas of n latents in two sources, (n, 2) float64; NaN where a latent was never active."""

    error: Tensor
    """Of the error plus the latent's own part."""
    reconstruction: Tensor
    """Of the reconstruction without the latent."""
    own: Tensor
    """(n,) int64: the source where the latent's decoder is the largest."""
    active: Tensor
    """(n,) rows where it is active."""

    @property
    def nu_error(self) -> Tensor:
        """(n,) the other source's beta over the own one's."""
        return self._ratio(self.error)

    @property
    def nu_reconstruction(self) -> Tensor:
        """(n,) the other source's beta over the own one's."""
        return self._ratio(self.reconstruction)

    def _ratio(self, beta: Tensor) -> Tensor:
        own = self.own[:, None]
        return (beta.gather(1, 1 - own) / beta.gather(1, own)).squeeze(1)


@torch.no_grad()
def latent_scaling(crosscoder: Crosscoder, batches: Iterable[np.ndarray]) -> LatentScaling:
    """Betas by their closed form, in one pass over batches (B, width) of rows `side_by_side`.

    Raises UnboxError for other than two sources, or two of different widths: they share no directions.
    """
    if len(crosscoder.widths) != 2 or len(set(crosscoder.widths)) != 1:
        told = ", ".join(f"{n} {w}" for n, w in zip(crosscoder.names, crosscoder.widths, strict=True))
        raise UnboxError(f"latents are scaled between two sources of one width; these are {told}")
    sae, width = crosscoder.sae, crosscoder.widths[0]
    parts = torch.stack(sae.W_dec.split(width, 1), 1)  # (n, 2, d)
    own = parts.norm(dim=2).argmax(1)
    directions = parts[torch.arange(len(parts)), own]  # (n, d)
    place = torch.device("cpu") if sae.device.type == "mps" else sae.device
    squares, active = (torch.zeros(sae.latents, dtype=torch.float64, device=place) for _ in range(2))
    products = torch.zeros(2, sae.latents, 2, dtype=torch.float64, device=place)
    for batch in batches:
        for x in torch.from_numpy(np.ascontiguousarray(batch, np.float32)).to(sae.W_dec).split(SLICE):
            codes = sae.encode(x)
            mixed = sae.combine(codes)
            targets = torch.stack([x - mixed - sae.b_pre, mixed]).unflatten(2, (2, width))  # (2, B, 2, d)
            along = torch.einsum("bkd,tbsd->tbks", directions[codes.indices], targets)
            weighed = (codes.values[..., None] * along).flatten(1, 2).to(place).double()
            ids, values = codes.indices.flatten().to(place), codes.values.flatten().to(place).double()
            products.index_add_(1, ids, weighed)
            squares.index_add_(0, ids, values.square())
            active.index_add_(0, ids, (values > 0).double())
    shared = torch.einsum("nd,nsd->ns", directions, parts).to(place).double() * squares[:, None]
    norms = directions.square().sum(1).to(place).double() * squares
    error, reconstruction = (products[0] + shared, products[1] - shared)
    return LatentScaling(
        error=(error / norms[:, None]).cpu(),
        reconstruction=(reconstruction / norms[:, None]).cpu(),
        own=own.cpu(),
        active=active.cpu(),
    )
