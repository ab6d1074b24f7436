"""Codes: which latents are active and how strongly, never as a dense vector of all latents."""

from typing import NamedTuple

import torch
from torch import Tensor


class Codes(NamedTuple):
    """Sparse codes of vectors: the active latents of each. A value of 0 is an unused place."""

    values: Tensor
    """(..., k), non-negative, in the units of the rows; descending."""
    indices: Tensor
    """(..., k) int64."""

    @property
    def l0(self) -> Tensor:
        """(...): number of active latents of each vector."""
        return (self.values > 0).sum(-1)

    def dense(self, latents: int) -> Tensor:
        """(..., latents). For looking at a few vectors: a batch of these is what codes exist to avoid."""
        zeros = self.values.new_zeros(*self.values.shape[:-1], latents)
        return zeros.scatter_add(-1, self.indices, self.values)

    def of(self, latent: int) -> Tensor:
        """(...): the value of one latent, 0 where it is not active."""
        return (self.values * (self.indices == latent)).sum(-1)


def pack(values: Tensor, indices: Tensor, rows: Tensor, count: int) -> Codes:
    """Codes (count, m) from a flat list of entries ordered by row; m is the longest row's (at least 1).

    `rows` (E,) says which vector each entry belongs to. Descending by value within a row.
    """
    lengths = torch.bincount(rows, minlength=count)
    width = max(1, int(lengths.max())) if len(rows) else 1
    place = torch.arange(len(rows), device=rows.device) - (lengths.cumsum(0) - lengths)[rows]
    packed_values = values.new_zeros(count, width)
    packed_indices = indices.new_zeros(count, width)
    packed_values[rows, place] = values
    packed_indices[rows, place] = indices
    packed_values, order = packed_values.sort(dim=-1, descending=True, stable=True)
    return Codes(packed_values, packed_indices.gather(-1, order))
