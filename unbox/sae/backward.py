"""One pass of a batch through an SAE and back, from the primitives of `sparse`, without autograd.

    loss = scale / L * sum over levels of |x^_l - x|^2,   x^_l = b_pre + the sum of entries of levels 0 ... l

Each of the L nested reconstructions adds its level's entries to the one before, so all cost one decode; an
entry of level l is reconstruction_grad the errors of the reconstructions l ... L - 1. Without levels, L = 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unbox.sae import sparse
from unbox.sae.distributed import ProcessGroup


@dataclass(frozen=True, eq=False)
class SparseGradients:
    """What a batch says of an SAE, by entry: the gradients are sums of these over each latent's entries."""

    active: sparse.Active
    """The entries, in L * B rows: those of level 0, of level 1, ..."""
    rows: Tensor
    """(E,) row of the batch of each entry."""
    values: Tensor
    """(E,) codes: pre-activations after the ReLU."""
    slopes: Tensor
    """(E,) gradient of the loss by the pre-activation."""
    reconstruction_grad: Tensor
    """(L * B, d) gradient of the loss by the decoded sum of each row of `active`, over `factor`."""
    factor: float
    """2 scale / L."""
    squares: Tensor
    """(L,) sum over the batch of |x^_l - x|^2."""
    error: Tensor
    """(B, d) x^ - x of the whole reconstruction."""

    def W_enc(self, centred: Tensor, part: slice | None = None) -> Tensor:
        """Gradient of the encoder (n, d), or of a range of latents."""
        return sparse.spread(self.slopes, self.active, centred, self.rows, part)

    def W_dec(self, part: slice | None = None) -> Tensor:
        """Gradient of the decoder (n, d), or of a range of latents."""
        return sparse.spread(self.values * self.factor, self.active, self.reconstruction_grad, part=part)

    def b_lat(self) -> Tensor:
        """Gradient of the latents' bias (n,)."""
        return sparse.total(self.slopes, self.active)

    def b_pre(self, W_enc: Tensor, d_lat: Tensor, decoded: bool = True) -> Tensor:
        """Gradient of the pre-bias (d,): one product of a vector with a matrix for the encoder's part.

        `decoded` False leaves out the decoder's part, which another process adds.
        """
        count = len(self.error)
        encoder = -(d_lat @ W_enc)
        return encoder + self.reconstruction_grad[:count].sum(0) * self.factor if decoded else encoder

    def radial(self) -> Tensor:
        """(n,): <gradient of W_dec, W_dec> of each latent, without forming either product whole."""
        return sparse.total(self.values * self.slopes, self.active)


def forward_backward(
    centred: Tensor,
    active: sparse.Active,
    weights: Mapping[str, Tensor],
    scale: float,
    level: Tensor | None = None,
    levels: int = 1,
    known: Tensor | None = None,
    latents: ProcessGroup | None = None,
) -> SparseGradients:
    """The pass of a batch: centred (B, d) = x - b_pre, and the entries chosen for it.

    `level` (E,) int says which of `levels` nested reconstructions an entry first takes part in; `known` (E,)
    gives the pre-activations where they are at hand. Where `latents` are shared, the other processes' parts
    of the reconstructions are added.
    """
    pre = (
        sparse.dots(centred, active, weights["W_enc"]) + weights["b_lat"][active.indices]
        if known is None
        else known
    )
    rows = active.rows
    if level is not None:
        active, order = active.stacked(level, levels)
        pre, rows = pre[order], rows[order]
    values, count, factor = pre.relu(), len(centred), 2 * scale / levels
    decoded = sparse.mix(values, active, weights["W_dec"])
    (latents or ProcessGroup()).sum_(decoded)
    errors = decoded.view(levels, count, -1)
    for i in range(1, levels):
        errors[i] += errors[i - 1]
    errors -= centred
    squares = torch.stack([torch.dot(one, one) for one in errors.view(levels, -1)])
    for i in range(levels - 1, 0, -1):
        errors[i - 1] += errors[i]
    slopes = sparse.dots(decoded, active, weights["W_dec"]) * (values > 0) * factor
    return SparseGradients(active, rows, values, slopes, decoded, factor, squares, errors[-1])
