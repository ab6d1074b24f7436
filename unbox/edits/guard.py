"""Keep edited updates inside the norms that were recorded.

Careless steering pushes updates to norms that the next layers never saw, which shows as artifacts. A guard
bounds the norm at every position that an edit changed, and counts how often it had to.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from annotated_types import Ge, MaxLen, MinLen
from pydantic import AfterValidator, BeforeValidator
from torch import Tensor

from activation_store import Rows
from unbox.site import BlockName
from unbox.validation import Count, Pair, Real, Seed, Several, Share, checked, validated

#: What a guard does: pull norms back to the nearest limit, or give each position its unedited norm back.
Mode = Literal["clip", "rescale"]
MODES = get_args(Mode)


def _representable(value: object) -> object:
    """The largest norm of float32 for infinity: no limit."""
    return float(np.finfo(np.float32).max) if value == np.inf else value


def _in_order(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("should be (lowest, highest), in this order")
    return pair


def _dict(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value


Norm = Annotated[Real, BeforeValidator(_representable), Ge(0)]
#: Lowest and highest norm; the highest may be infinite.
NormLimits = Annotated[Pair[Norm], AfterValidator(_in_order)]
Quantiles = Annotated[Several[Share], MinLen(2), MaxLen(2), AfterValidator(_in_order)]


@validated
class Guard:
    """Limits of the update's norm by block, and what to do about them."""

    limits: Annotated[dict[BlockName, NormLimits], BeforeValidator(_dict)]
    """Block -> (lowest, highest) norm, as `norm_limits` measures; other blocks are not guarded."""
    mode: Mode = "clip"
    """`clip`: an edited update outside the limits is scaled to the nearer one. `rescale`: every edited update
    is scaled to the norm it had before, put inside the limits."""
    _found: dict[tuple[str, torch.device], Tensor] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def delta(self, block: str, update: Tensor, delta: Tensor) -> Tensor:
        """The delta that keeps `update + delta` inside the limits; (images, y, x, d), zero where it was."""
        if block not in self.limits:
            return delta
        low, high = self.limits[block]
        moved = update + delta
        norm = moved.norm(dim=-1, keepdim=True)
        edited = (delta != 0).any(-1, keepdim=True)
        outside = edited & ((norm < low) | (norm > high))
        wanted = (update.norm(dim=-1, keepdim=True) if self.mode == "rescale" else norm).clamp(low, high)
        found = torch.stack([edited.sum(), outside.sum()])
        place = (block, found.device)
        self._found[place] = self._found[place] + found if place in self._found else found
        touched = edited if self.mode == "rescale" else outside
        return torch.where(touched, moved * (wanted / norm.clamp(min=1e-12)) - update, delta)

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Block -> positions edited, and positions whose norm was outside the limits, over all runs so far;
        waits for the device, where they are counted."""
        counts: dict[str, tuple[int, int]] = {}
        for (block, _), found in self._found.items():
            edited, outside = counts.get(block, (0, 0))
            more = found.cpu().tolist()
            counts[block] = edited + more[0], outside + more[1]
        return counts

    def report(self) -> dict[str, float]:
        """Block -> share of edited positions whose norm was outside the limits, so far."""
        return {block: outside / max(edited, 1) for block, (edited, outside) in self.counts.items()}


def norm_limits(
    rows: Rows, quantiles: tuple[float, float] = (0.0, 1.0), count: int = 20_000, seed: int = 0
) -> tuple[float, float]:
    """Quantiles of the update's norm in a store's rows: the limits for a `Guard`."""
    shares = checked(Quantiles, "quantiles", quantiles, "norm_limits")
    count, seed = checked(Count, "count", count, "norm_limits"), checked(Seed, "seed", seed, "norm_limits")
    norms = np.linalg.norm(rows.sample(min(count, len(rows)), seed), axis=1)
    low, high = np.quantile(norms, shares)
    return float(low), float(high)
