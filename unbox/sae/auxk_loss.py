"""AuxK, the part of the loss that revives dead latents. (`gradients` has the other, the squared error.)"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from unbox.sae.cpu.threads import parallel_for
from unbox.sae.distributed import ProcessGroup
from unbox.sae.topk import SLICE, SLICE_ELSEWHERE


@dataclass(frozen=True)
class AuxK:
    """AuxK (arXiv 2406.04093, appendix A.2): dead latents reconstruct what the living leave over.

    (coefficient) * |e - D top_kappa(pre-activations of the dead)|^2 / |e - mean e|^2, with e = x - x^ taken
    as given, kappa at most the number dead (256 in arXiv 2410.22366; None: d / 2), no bias; the ReLU as in
    the model.
    """

    coefficient: float = 1 / 32
    kappa: int | None = 256

    def gradients(
        self,
        error: Tensor,
        centred: Tensor,
        dead: Tensor,
        weights: Mapping[str, Tensor],
        norm: Tensor,
        lowp: torch.dtype,
        latents: ProcessGroup | None = None,
        everywhere: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """AuxK's loss, and its gradients by the dead latents' W_enc (r, d), W_dec (r, d) and b_lat (r,).

        That of b_pre is -(the last) @ W_enc[dead].

        error (B, d) = x - x^; centred (B, d) = x - b_pre; dead (r,) ids; norm = sum of |e - mean e|^2. Rows
        go by in slices, so that no (B, r) array exists whole; products run in `lowp`. Where `latents` are
        shared, the dead of all processes explain together: `everywhere` is their number.
        """
        encoder, decoder = weights["W_enc"][dead], weights["W_dec"][dead]
        bias = weights["b_lat"][dead]
        low_encoder, low_decoder = encoder.to(lowp), decoder.to(lowp)
        d_encoder, d_decoder = torch.zeros_like(encoder), torch.zeros_like(decoder)
        d_bias, loss = torch.zeros_like(bias), error.new_zeros(())
        latents = latents or ProcessGroup()
        number = len(dead) if everywhere is None else everywhere
        size = max(1, SLICE.get(error.device.type, SLICE_ELSEWHERE) // number)
        kappa = max(1, min(self.kappa or error.shape[1] // 2, number))
        for start in range(0, len(error), size):
            e, c = error[start : start + size], centred[start : start + size].to(lowp)
            z = keep_topk(torch.addmm(bias.to(lowp), c, low_encoder.T).relu(), kappa, latents)
            found = (z @ low_decoder).to(e.dtype)
            latents.sum_(found)
            difference = found - e
            loss += difference.square().sum()
            g = (difference * (2 * self.coefficient / norm)).to(lowp)
            d_z = (g @ low_decoder.T) * (z > 0)
            d_decoder += (z.T @ g).to(e.dtype)
            d_encoder += (d_z.T @ c).to(e.dtype)
            d_bias += d_z.sum(0, dtype=e.dtype)
        return loss * self.coefficient / norm, d_encoder, d_decoder, d_bias


def keep_topk(z: Tensor, k: int, latents: ProcessGroup | None = None) -> Tensor:
    """z (B, r) >= 0 with all but the k largest of each row set to 0 (equals of the k-th are kept); the k
    largest of all processes' where `latents` are shared."""
    if latents is not None and latents.world > 1:
        top = z.new_zeros(len(z), k)
        local_k = min(k, z.shape[1])
        top[:, :local_k] = z.topk(local_k, dim=1).values
        everyone = rearrange(latents.gather_rows(top.float()), "(p b) k -> b (p k)", p=latents.world)
        least = everyone.topk(k, dim=1).values[:, -1:].to(z.dtype)
        return z * (z >= least)
    if k >= z.shape[1]:
        return z
    return z * (z >= _kth(z.detach(), k))


def _kth(z: Tensor, k: int) -> Tensor:
    """(B, 1): the k-th largest of each row of z (B, r) >= 0. On CPU by NumPy's partition."""
    if z.device.type != "cpu":
        return z.topk(k, dim=1).values[:, -1:]
    # bf16 as int16: the same order for what is not negative.
    array = (z.view(torch.int16) if z.dtype == torch.bfloat16 else z).numpy()
    at, found = array.shape[1] - k, np.empty((len(array), 1), array.dtype)

    def of_range(rows: slice) -> None:
        found[rows] = np.partition(array[rows], at, axis=1)[:, at : at + 1]

    parallel_for(of_range, len(array))
    return torch.from_numpy(found).view(z.dtype)
