"""Masks on grids, and the sum of adds laid out on them once, so that a step costs one tensor."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from unbox import memory_limit
from unbox.edit import Edit
from unbox.edits.terms import Term, signed_value
from unbox.mask import Mask
from unbox.models.devices import to_device

Grid = tuple[int, int]


class Maps:
    """Masks placed on grids, and sent to devices, each once: a mask may be far larger than the grid."""

    def __init__(self) -> None:
        self._placed: dict[tuple[Mask, Grid], np.ndarray] = {}
        self._sent: dict[tuple[Mask, Grid, torch.device], Tensor] = {}

    def at(self, edit: Edit, step: int, grid: Grid) -> np.ndarray:
        """(1 or features, y, x) weights; masks with a step axis keep their last map beyond its end."""
        assert edit.where is not None
        frames = self._frames(edit.where, grid)
        frame: np.ndarray = frames[:, min(step, frames.shape[1] - 1)]
        return frame

    def on(self, mask: Mask, step: int, grid: Grid, device: torch.device) -> Tensor:
        """The same on a device, where the maps of all steps are."""
        key = (mask, grid, device)
        if key not in self._sent:
            self._sent[key] = to_device(torch.from_numpy(self._frames(mask, grid)), device)
        frames = self._sent[key]
        return frames[:, min(step, frames.shape[1] - 1)]

    def weights(self, edit: Edit, step: int, like: Tensor) -> Tensor:
        """The same as (y, x, 1 or features) on the grid and device of `like` (..., y, x, channels)."""
        if edit.where is None:
            return like.new_ones(1, 1, 1)
        maps = self.on(edit.where, step, (like.shape[-3], like.shape[-2]), like.device)
        return rearrange(maps.to(like.dtype), "f y x -> y x f")

    def _frames(self, mask: Mask, grid: Grid) -> np.ndarray:
        """(1 or features, 1 or steps, y, x)."""
        key = (mask, grid)
        if key not in self._placed:
            placed = mask.on(*grid)
            self._placed[key] = placed.reshape((1,) * (4 - placed.ndim) + placed.shape)
        return self._placed[key]


class _Addend(NamedTuple):
    """A direction with a map: what several edits add along it is one number."""

    term: Term
    slot: int
    mask: Mask | None


class Adds:
    """What edits that only add put in: the sum of value * unit * map * direction. It depends on nothing that
    the model computes, so it is laid out once and kept while the values are equal."""

    def __init__(self, terms: Sequence[Term], maps: Maps) -> None:
        self._maps = maps
        found: dict[Hashable, _Addend] = {}
        keys = []
        for term in terms:
            mask = term.edit.where
            by_feature = mask is not None and len(mask.shape) == 4
            lines = [term.edit.direction or (id(term.dictionary), feature) for feature in term.features]
            keys.append([(line, mask, slot if by_feature else None) for slot, line in enumerate(lines)])
            for slot, key in enumerate(keys[-1]):
                found.setdefault(key, _Addend(term, slot, mask))
        order = sorted(found, key=lambda key: found[key].mask is not None)  # those without a map first
        self._addends = [found[key] for key in order]
        places = {key: place for place, key in enumerate(order)}
        self._terms = [(term, [places[key] for key in some]) for term, some in zip(terms, keys, strict=True)]
        self._vectors: dict[torch.device, Tensor] = {}
        self._sums: dict[Hashable, Tensor] = {}

    def delta(self, step: int, branch: str, grid: Grid, device: torch.device) -> Tensor | None:
        """(d,) where no add has a mask, else (y, x, d), channels first in memory like outputs of blocks; None
        where none acts. Equal directions are summed first, so that v - v is 0."""
        amounts = [0.0] * len(self._addends)
        for term, places in self._terms:
            if value := signed_value(term.edit, step, branch):
                for place, unit in zip(places, term.units, strict=True):
                    amounts[place] += value * unit
        if not any(amounts):
            return None
        moving = any(
            amount and addend.mask is not None and len(addend.mask.shape) > 2
            for addend, amount in zip(self._addends, amounts, strict=True)
        )
        key = (tuple(amounts), step if moving else None, grid, device)
        if key not in self._sums:
            if len(self._sums) >= 4:  # two branches, now and before
                self._sums.clear()
            self._sums[key] = self._laid_out(amounts, step, grid, device)
        return self._sums[key]

    def _laid_out(self, amounts: Sequence[float], step: int, grid: Grid, device: torch.device) -> Tensor:
        vectors = self._vectors_on(device) * to_device(torch.tensor(amounts), device)[:, None]
        masks = [addend for addend in self._addends if addend.mask is not None]
        plain = len(self._addends) - len(masks)
        flat = vectors[:plain].sum(0)
        if not any(amounts[plain:]):
            return flat
        size = 4 * grid[0] * grid[1] * (2 * len(masks) + 3 * flat.shape[-1])
        memory_limit.require(
            size, f"the masks of {len(masks):,} features on {grid[0]:,} x {grid[1]:,} positions"
        )
        maps = [self._maps.on(addend.mask, step, grid, device) for addend in masks if addend.mask is not None]
        weights = [
            each[addend.slot if len(each) > 1 else 0] for each, addend in zip(maps, masks, strict=True)
        ]
        laid = torch.einsum("fyx,fd->dyx", torch.stack(weights), vectors[plain:]) + flat[:, None, None]
        return rearrange(laid.contiguous(), "d y x -> y x d")

    def _vectors_on(self, device: torch.device) -> Tensor:
        """(addends, d)."""
        if device not in self._vectors:
            vectors = [addend.term.vectors[addend.slot] for addend in self._addends]
            together = torch.stack([vector.to(vectors[0].device) for vector in vectors])
            self._vectors[device] = to_device(together, device)
        return self._vectors[device]
