"""Sparse linear algebra of codes by three primitives; of them the loss and its gradients, without autograd.

    mix     (B, d):  sum over a row's entries of value * W[latent]             decode
    dots    (E,):    <g[row], W[latent]> of each entry                        encode the winners; d(values)
    spread  (n, d):  sum over a latent's entries of value * g[row]             d(W)

`mix` and `dots` are each other's transpose, `spread` is `mix` with rows and latents exchanged (entries sorted
by latent; the latents are the bags). All run on `embedding_bag`'s kernels, on CPU and CUDA, in fp32 or fp64;
the order of every sum is fixed, so results repeat to the bit.

`forward_backward` is one pass of a batch through an SAE and back:

    loss = scale / L * sum over levels of |x^_l - x|^2,   x^_l = b_pre + the sum of entries of levels 0 ... l

Each of the L nested reconstructions adds its level's entries to the one before, so all cost one decode; the
gradient of an entry of level l is by the errors of the reconstructions l ... L - 1. Without levels, L = 1.
`AuxK` is the other part of the loss, which revives dead latents. `objective` defines both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from activation_store.compiled_loops import AVAILABLE
from unbox.sae.cpu.threads import parallel_for
from unbox.sae.distributed import ProcessGroup

#: Pre-activations at a time: 4 MB in bf16 on CPU, to stay in cache; on a GPU launches cost more than memory.
SLICE = {"cpu": 1 << 21}
SLICE_ELSEWHERE = 1 << 28
#: Bytes of a number -> whole numbers of as many.
WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Active:
    """The active entries of B rows, in order of rows: a CSR pattern without values."""

    indices: Tensor
    """(E,) int64: latent of each entry."""
    rows: Tensor
    """(E,) int64, ascending: row of each entry."""
    offsets: Tensor
    """(B,) int64: where each row's entries begin."""
    latents: int

    @classmethod
    def of_rows(cls, indices: Tensor, latents: int) -> "Active":
        """From a rectangle (B, k) of latents."""
        count, k = indices.shape
        rows = torch.arange(count, device=indices.device)
        return cls(indices.reshape(-1), rows.repeat_interleave(k), rows * k, latents)

    @classmethod
    def of_flat(cls, indices: Tensor, rows: Tensor, count: int, latents: int) -> "Active":
        """From flat entries ordered by row."""
        begin = torch.searchsorted(rows, torch.arange(count, device=rows.device))
        return cls(indices, rows, begin, latents)

    @property
    def count(self) -> int:
        """Number of rows B."""
        return len(self.offsets)

    def stacked(self, level: Tensor, levels: int) -> tuple["Active", Tensor]:
        """The entries of level 0, then those of level 1, ...: (levels * B) rows, and the order (E,).

        `level` (E,) int. Row r of level l becomes row l * B + r.
        """
        order = stable_argsort(level, levels)
        rows = level[order] * self.count + self.rows[order]
        return Active.of_flat(self.indices[order], rows, levels * self.count, self.latents), order

    @cached_property
    def by_latent(self) -> tuple[Tensor, Tensor]:
        """Entries sorted by latent (stable): order (E,), and where each latent's begin (n,)."""
        order = stable_argsort(self.indices, self.latents)
        ids = torch.arange(self.latents, device=order.device)
        return order, torch.searchsorted(self.indices[order], ids)


def stable_argsort(ids: Tensor, bound: int) -> Tensor:
    """Stable order of ids in [0, bound). On CPU NumPy's radix sort of 16 bits, several times faster."""
    if ids.device.type == "cpu" and bound <= 1 << 16:
        return torch.from_numpy(np.argsort(ids.numpy().astype(np.uint16), kind="stable"))
    return torch.sort(ids, stable=True).indices


def mix(values: Tensor, active: Active, weight: Tensor) -> Tensor:
    """(B, d): for each row, the sum of value * weight[latent]. values (E,), weight (n, d)."""
    return _bag(weight, active.indices, active.offsets, values)


def dots(g: Tensor, active: Active, weight: Tensor) -> Tensor:
    """(E,): <g[row], weight[latent]> of each entry. g (B, d), weight (n, d)."""
    if not len(active.indices):
        return g.new_zeros(0)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        g, weight, active.indices, active.offsets, active.rows, 0
    )


def spread(
    values: Tensor, active: Active, g: Tensor, rows: Tensor | None = None, part: slice | None = None
) -> Tensor:
    """(n, d): for each latent, the sum of value * g[row] over its entries. values (E,), g (B, d).

    `rows` (E,) names other rows of g than the entries' own; `part` is a range of latents to do, not all.
    """
    order, starts = active.by_latent
    if part is not None and part != slice(0, active.latents):
        begin = int(starts[part.start])
        end = int(starts[part.stop]) if part.stop < active.latents else len(order)
        order, starts = order[begin:end], starts[part] - begin
    return _bag(g, (active.rows if rows is None else rows)[order], starts, values[order])


def total(values: Tensor, active: Active) -> Tensor:
    """(n,): sum of the values of each latent's entries."""
    order, _ = active.by_latent
    return values.new_zeros(active.latents).index_add_(0, active.indices[order], values[order])


def _bag(weight: Tensor, indices: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
    if not len(indices):
        return weight.new_zeros(len(offsets), weight.shape[1])
    # (weight, indices, offsets, scale by frequency, mode sum, sparse, per-sample weights)
    return torch.ops.aten._embedding_bag(weight, indices, offsets, False, 0, False, values)[0]


def by_prefix(active: Active, k: int, levels: tuple[int, ...], first: int = 0) -> Tensor:
    """(E,) int: of nested prefixes of latents, the first that holds an entry. Latent 0 here is `first`."""
    return torch.bucketize(active.indices + first, _bounds(levels, active.indices.device), right=True)


def by_rank(active: Active, k: int, levels: tuple[int, ...], first: int = 0) -> Tensor:
    """(E,) int: of nested numbers of winners of a row, the first that holds an entry."""
    rank = torch.arange(k, device=active.indices.device)
    return torch.bucketize(rank, _bounds(levels, rank.device), right=True).repeat(active.count)


@cache
def _bounds(levels: tuple[int, ...], device: torch.device) -> Tensor:
    """Levels where a step needs them: a GPU waits for each copy from its host."""
    return torch.tensor(levels, device=device)


@dataclass(frozen=True, eq=False)
class SparseGradients:
    """What a batch says of an SAE, by entry: the gradients are sums of these over each latent's entries."""

    active: Active
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
        return spread(self.slopes, self.active, centred, self.rows, part)

    def W_dec(self, part: slice | None = None) -> Tensor:
        """Gradient of the decoder (n, d), or of a range of latents."""
        return spread(self.values * self.factor, self.active, self.reconstruction_grad, part=part)

    def b_lat(self) -> Tensor:
        """Gradient of the latents' bias (n,)."""
        return total(self.slopes, self.active)

    def b_pre(self, W_enc: Tensor, d_lat: Tensor, decoded: bool = True) -> Tensor:
        """Gradient of the pre-bias (d,): one product of a vector with a matrix for the encoder's part.

        `decoded` False leaves out the decoder's part, which another process adds.
        """
        count = len(self.error)
        encoder = -(d_lat @ W_enc)
        return encoder + self.reconstruction_grad[:count].sum(0) * self.factor if decoded else encoder

    def radial(self) -> Tensor:
        """(n,): <gradient of W_dec, W_dec> of each latent, without forming either product whole."""
        return total(self.values * self.slopes, self.active)


def forward_backward(
    centred: Tensor,
    active: Active,
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
        dots(centred, active, weights["W_enc"]) + weights["b_lat"][active.indices] if known is None else known
    )
    rows = active.rows
    if level is not None:
        active, order = active.stacked(level, levels)
        pre, rows = pre[order], rows[order]
    values, count, factor = pre.relu(), len(centred), 2 * scale / levels
    decoded = mix(values, active, weights["W_dec"])
    (latents or ProcessGroup()).sum_(decoded)
    errors = decoded.view(levels, count, -1)
    for i in range(1, levels):
        errors[i] += errors[i - 1]
    errors -= centred
    squares = torch.stack([torch.dot(one, one) for one in errors.view(levels, -1)])
    for i in range(levels - 1, 0, -1):
        errors[i - 1] += errors[i]
    slopes = dots(decoded, active, weights["W_dec"]) * (values > 0) * factor
    return SparseGradients(active, rows, values, slopes, decoded, factor, squares, errors[-1])


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

        error (B, d) = x^ - x; centred (B, d) = x - b_pre; dead (r,) ids; norm = sum of |e - mean e|^2. Rows
        go by in slices, so that no (B, r) array exists whole; products, and what is left over between them,
        are in `lowp`, sums over rows in the weights' precision. Where `latents` are shared, the dead of all
        processes explain together: `everywhere` is their number.
        """
        encoder, decoder = weights["W_enc"][dead], weights["W_dec"][dead]
        bias = weights["b_lat"][dead]
        low_encoder, low_decoder, low_bias = encoder.to(lowp), decoder.to(lowp), bias.to(lowp)
        d_encoder, d_decoder = torch.zeros_like(encoder), torch.zeros_like(decoder)
        d_bias, loss, kind = torch.zeros_like(bias), bias.new_zeros(()), bias.dtype
        latents = latents or ProcessGroup()
        number = len(dead) if everywhere is None else everywhere
        size = max(1, SLICE.get(error.device.type, SLICE_ELSEWHERE) // number)
        kappa = max(1, min(self.kappa or error.shape[1] // 2, number))
        for start in range(0, len(error), size):
            e, c = error[start : start + size].to(lowp), centred[start : start + size].to(lowp)
            z = keep_topk(torch.addmm(low_bias, c, low_encoder.T).relu_(), kappa, latents)
            left = torch.addmm(e, z, low_decoder, beta=int(latents.rank == 0))  # D z - (x - x^)
            if latents.world > 1:
                latents.sum_(whole := left.to(kind))
                left = whole.to(lowp)
            loss += torch.linalg.vector_norm(left, dtype=kind).square()
            d_z = (left @ low_decoder.T).mul_(z > 0)
            d_decoder += z.T @ left
            d_encoder += d_z.T @ c
            d_bias += d_z.sum(0, dtype=kind)
        scale = 2 * self.coefficient / norm
        return loss * self.coefficient / norm, d_encoder * scale, d_decoder * scale, d_bias * scale


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
    """(B, 1): the k-th largest of each row of z (B, r) >= 0; on CPU by a loop or NumPy's partition."""
    if z.device.type != "cpu":
        return z.topk(k, dim=1).values[:, -1:]
    # Floats as whole numbers: the same order for what is not negative.
    array = z.view(WHOLE[z.itemsize]).numpy()
    at, found = array.shape[1] - k, np.empty(len(array), array.dtype)

    def of_range(rows: slice) -> None:
        if AVAILABLE:
            from unbox.sae.cpu.topk_kernel import kth_largest

            kth_largest(rows.start, rows.stop, array, k, found)
        else:
            found[rows] = np.partition(array[rows], at, axis=1)[:, at]

    parallel_for(of_range, len(array))
    return torch.from_numpy(found).view(z.dtype)[:, None]
