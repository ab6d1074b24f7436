"""Sparse linear algebra of codes, and its gradients, by three primitives.

    mix     (B, d):  sum over a row's entries of value * W[latent]             decode
    dots    (E,):    <g[row], W[latent]> of each entry                        encode the winners; d(values)
    spread  (n, d):  sum over a latent's entries of value * g[row]             d(W)

`mix` and `dots` are each other's transpose, `spread` is `mix` with rows and latents exchanged (entries sorted
by latent; the latents are the bags). All run on `embedding_bag`'s kernels, on CPU and CUDA, in fp32 or fp64;
the order of every sum is fixed, so results repeat to the bit. `gradients` makes a whole pass of them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


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
        lengths = torch.bincount(rows, minlength=count)
        return cls(indices, rows, lengths.cumsum(0) - lengths, latents)

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
