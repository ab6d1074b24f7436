"""The two parts of the loss: squared error over the variance, and AuxK, which revives dead latents."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unbox.sae import sparse
from unbox.sae.parallel import Alone, Group
from unbox.sae.select import SLICE, SLICE_ELSEWHERE


def reconstructions(
    values: Tensor,
    active: sparse.Active,
    level: Tensor | None,
    count: int,
    W_dec: Tensor,
    b_pre: Tensor,
    latents: Group | None = None,
) -> list[Tensor]:
    """The nested reconstructions (B, d), the last the whole: each adds the entries of its level to the one
    before, so that all together cost one decode. Without levels there is one.

    Where `latents` are shared, the other processes' parts are added as they are, and b_pre's gradient is the
    first process's alone: the sum over processes is then the gradient of the whole.
    """
    parts = (
        [sparse.decode(values, active, W_dec)]
        if level is None
        else [sparse.decode(values[level == i], active.where(level == i), W_dec) for i in range(count)]
    )
    if latents is not None and latents.world > 1:
        parts = [_with_others(part, latents) for part in parts]
        b_pre = b_pre if latents.rank == 0 else b_pre.detach()
    found, sums = b_pre, []
    for part in parts:
        found = found + part
        sums.append(found)
    return sums


def _with_others(part: Tensor, group: Group) -> Tensor:
    """The sum over processes, with the gradient of this one's part."""
    others = part.detach().clone()
    group.sum_(others)
    return part + (others - part.detach())


def squared_error(found: list[Tensor], x: Tensor) -> Tensor:
    """(reconstructions,): the sum over the batch of |x^ - x|^2, for each."""
    return torch.stack([F.mse_loss(one, x, reduction="sum") for one in found])


@dataclass(frozen=True)
class Aux:
    """AuxK (arXiv 2406.04093, appendix A.2): dead latents reconstruct what the living leave over.

    (coefficient) * |e - D top_kappa(pre-activations of the dead)|^2 / |e - mean e|^2, with e = x - x^ taken
    as given, kappa = min(d / 2, number dead), no bias; the ReLU as in the model.
    """

    coefficient: float = 1 / 32

    def add_gradients(
        self,
        error: Tensor,
        centred: Tensor,
        dead: Tensor,
        weights: Mapping[str, Tensor],
        norm: Tensor,
        lowp: torch.dtype,
        latents: Group | None = None,
    ) -> Tensor:
        """Adds AuxK's gradients to `weights[...].grad`; returns its loss (scalar).

        error (B, d) = x - x^; centred (B, d) = x - b_pre; dead (r,) ids; norm = sum of |e - mean e|^2. Rows
        go by in slices, so that no (B, r) array exists whole; products run in `lowp`. Where `latents` are
        shared, the dead of all processes explain together.
        """
        encoder, decoder = weights["W_enc"][dead], weights["W_dec"][dead]
        bias = weights["b_lat"][dead]
        low_encoder, low_decoder = encoder.to(lowp), decoder.to(lowp)
        d_encoder, d_decoder = torch.zeros_like(encoder), torch.zeros_like(decoder)
        d_bias, loss = torch.zeros_like(bias), error.new_zeros(())
        latents = latents or Alone()
        everywhere = torch.tensor(len(dead), device=error.device)
        latents.sum_(everywhere)
        number = int(everywhere)
        size = max(1, SLICE.get(error.device.type, SLICE_ELSEWHERE) // number)
        kappa = max(1, min(error.shape[1] // 2, number))
        for start in range(0, len(error), size):
            e, c = error[start : start + size], centred[start : start + size].to(lowp)
            z = strongest(torch.addmm(bias.to(lowp), c, low_encoder.T).relu(), kappa, latents)
            found = (z @ low_decoder).to(e.dtype)
            latents.sum_(found)
            difference = found - e
            loss += difference.square().sum()
            g = (difference * (2 * self.coefficient / norm)).to(lowp)
            d_z = (g @ low_decoder.T) * (z > 0)
            d_decoder += (z.T @ g).to(e.dtype)
            d_encoder += (d_z.T @ c).to(e.dtype)
            d_bias += d_z.sum(0, dtype=e.dtype)
        weights["W_enc"].grad.index_add_(0, dead, d_encoder)  # type: ignore[union-attr]
        weights["W_dec"].grad.index_add_(0, dead, d_decoder)  # type: ignore[union-attr]
        weights["b_lat"].grad.index_add_(0, dead, d_bias)  # type: ignore[union-attr]
        weights["b_pre"].grad.sub_(d_bias @ encoder)  # type: ignore[union-attr]
        return loss * self.coefficient / norm


def strongest(z: Tensor, k: int, latents: Group | None = None) -> Tensor:
    """z (B, r) >= 0 with all but the k largest of each row set to 0 (equals of the k-th are kept); the k
    largest of all processes' where `latents` are shared."""
    if latents is not None and latents.world > 1:
        top = z.new_zeros(len(z), k)
        kept = min(k, z.shape[1])
        top[:, :kept] = z.topk(kept, dim=1).values
        everyone = latents.gather_rows(top.float()).view(latents.world, len(z), k).transpose(0, 1)
        least = everyone.reshape(len(z), -1).topk(k, dim=1).values[:, -1:].to(z.dtype)
        return z * (z >= least)
    if k >= z.shape[1]:
        return z
    least = z.topk(k, dim=1).values[:, -1:]
    return z * (z >= least)
