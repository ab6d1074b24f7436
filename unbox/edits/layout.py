"""Masks on grids, and the sum of adds laid out on them once, so that a step costs one tensor."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from unbox import memory_limit
from unbox.edit import Edit
from unbox.edits.terms import Term
from unbox.mask import Mask


class Maps:
    """Masks placed on grids, each once: a mask may be far larger than the grid."""

    def __init__(self) -> None:
        self._placed: dict[tuple[Mask, tuple[int, int]], np.ndarray] = {}

    def at(self, edit: Edit, step: int, grid: tuple[int, int]) -> np.ndarray:
        """(1 or features, y, x) weights; masks with a step axis keep their last map beyond its end."""
        assert edit.where is not None
        key = (edit.where, grid)
        if key not in self._placed:
            self._placed[key] = edit.where.on(*grid)
        placed = self._placed[key]
        if placed.ndim > 2:
            placed = placed[..., min(step, placed.shape[-3] - 1), :, :]
        return placed if placed.ndim == 3 else placed[None]

    def weights(self, edit: Edit, step: int, like: Tensor) -> Tensor:
        """The same as (y, x, 1 or features) on the grid and device of `like` (..., y, x, channels)."""
        if edit.where is None:
            return torch.ones(1, 1, 1).to(like)
        maps = self.at(edit, step, (like.shape[-3], like.shape[-2]))
        return rearrange(torch.from_numpy(maps).to(like), "f y x -> y x f")


class _Addend(NamedTuple):
    term: Term
    slot: int
    amount: float


def sum_of_adds(
    acting: Sequence[tuple[Term, float]], maps: Maps, step: int, grid: tuple[int, int], device: torch.device
) -> Tensor:
    """Sum of value * unit * map * direction: (d,) where no add has a mask, else (y, x, d).

    Maps have their channels first in memory, like outputs of blocks. Equal addends are summed first, so that
    v - v is 0.
    """
    addends: dict[Hashable, _Addend] = {}
    for term, value in acting:
        mask = term.edit.where
        for slot, feature in enumerate(term.features):
            line = term.edit.direction or (id(term.dictionary), feature)
            key = (line, mask, slot if mask is not None and len(mask.shape) == 4 else None)
            before = addends[key].amount if key in addends else 0.0
            addends[key] = _Addend(term, slot, before + value * term.units[slot])
    nonzero = [addend for addend in addends.values() if addend.amount]
    plain = [addend for addend in nonzero if addend.term.edit.where is None]
    placed = [addend for addend in nonzero if addend.term.edit.where is not None]
    flat = torch.zeros(acting[0][0].vectors.shape[-1]) + _vectors(plain).sum(0)
    if not placed:
        return flat.to(device)
    size = 4 * grid[0] * grid[1] * (2 * len(placed) + 3 * flat.shape[-1])
    memory_limit.require(
        size, f"the masks of {len(placed):,} features on {grid[0]:,} x {grid[1]:,} positions"
    )
    laid_out = [(maps.at(addend.term.edit, step, grid), addend.slot) for addend in placed]
    weights = [each[slot if len(each) > 1 else 0] for each, slot in laid_out]
    laid = flat + torch.einsum("fyx,fd->yxd", torch.from_numpy(np.stack(weights)), _vectors(placed))
    return rearrange(rearrange(laid.to(device), "y x d -> d y x").contiguous(), "d y x -> y x d")


def _vectors(addends: Sequence[_Addend]) -> Tensor:
    """(addends, d) amount * direction of each."""
    if not addends:
        return torch.zeros(0, 1)
    return torch.stack([amount * term.vectors[slot].cpu() for term, slot, amount in addends])
