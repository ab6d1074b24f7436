"""Baselines of SAE features, behind the same door: neurons, principal components, random directions.

A `Basis` offers what edits and benchmarks ask of an SAE (`encode`, `W_dec`, `stats.mean_active`,
`update_std`), so that `Feature(block, i, sae=basis)` edits with it and the same code scores both.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from unbox.edit import Feature
from unbox.errors import FieldError
from unbox.memory_limit import require
from unbox.models.seeds import generator
from unbox.sae.codes import Codes
from unbox.sae.model import Stats
from unbox.site import BlockName
from unbox.validation import Count, Seed, checked


@dataclass(frozen=True, eq=False)
class Basis:
    """A linear dictionary: coefficient i of x is <x - mean, W_dec[i]>, and its direction is W_dec[i]."""

    block: str
    name: str
    mean: Tensor
    """(d,)"""
    W_dec: Tensor
    """(n, d)"""
    update_std: float
    """Root mean square norm of the updates' deviation from their mean."""
    rows: Tensor
    """(m, d) updates that the statistics are taken over."""

    def to(self, device: torch.device | str | None = None) -> "Basis":
        """The same basis with its tensors elsewhere."""
        return replace(
            self, mean=self.mean.to(device), W_dec=self.W_dec.to(device), rows=self.rows.to(device)
        )

    @property
    def latents(self) -> int:
        return len(self.W_dec)

    @property
    def width(self) -> int:
        return self.W_dec.shape[1]

    def coefficients(self, update: Tensor) -> Tensor:
        """(..., d) -> (..., n), all of them."""
        return (update - self.mean.to(update)) @ self.W_dec.to(update).T

    def encode(self, update: Tensor) -> Codes:
        """Every coefficient, in the order of the features: codes of k = n."""
        values = self.coefficients(update)
        return Codes(values, torch.arange(self.latents, device=values.device).expand_as(values))

    def decode(self, codes: Codes) -> Tensor:
        """(..., d) from the codes that `encode` gave."""
        return codes.values @ self.W_dec.to(codes.values) + self.mean.to(codes.values)

    def feature(self, index: int | tuple[int, ...]) -> Feature:
        """A feature ready to be edited, as of an SAE."""
        return Feature(self.block, index, sae=self)

    @cached_property
    def stats(self) -> Stats:
        """What each coefficient did where it is positive."""
        what = f"coefficients of {self.latents:,} directions on {len(self.rows):,} updates"
        require(24 * self.latents * len(self.rows), what)
        return active_statistics(self.coefficients(self.rows))


def active_statistics(values: Tensor) -> Stats:
    """What coefficients (m, n) did where they are positive."""
    active = values > 0
    count = active.sum(0).clamp(min=1)
    mean = (values * active).sum(0) / count
    spread = (((values - mean) ** 2 * active).sum(0) / count).sqrt()
    return Stats(mean, spread, values.amax(0).clamp(min=0), active.float().mean(0))


def _rows(rows: np.ndarray, door: str) -> Tensor:
    """(m, d) a sample of updates in float32. Raises FieldError for what is none."""
    sample = torch.as_tensor(np.asarray(rows), dtype=torch.float32)
    if sample.ndim != 2 or 0 in sample.shape or not bool(sample.isfinite().all()):
        raise FieldError(door, "rows", rows, "should be finite updates (m, d), at least one")
    return sample


def _basis(block: str, name: str, rows: np.ndarray, directions: Callable[[Tensor], Tensor]) -> Basis:
    """A basis of the `directions` (n, d) that are made of the rows' deviations from their mean (m, d)."""
    sample = _rows(rows, name)
    mean = sample.mean(0)
    about = sample - mean
    block = checked(BlockName, "block", block, name)
    return Basis(block, name, mean, directions(about), float(about.square().sum(1).mean().sqrt()), sample)


def neurons(block: str, rows: np.ndarray) -> Basis:
    """The channels of the update themselves, about their mean. `rows` (m, d): a sample of updates."""
    return _basis(block, "neurons", rows, lambda about: torch.eye(about.shape[1]))


def principal(block: str, rows: np.ndarray, count: int | None = None) -> Basis:
    """Principal components in both senses (+v, -v), so that each is found whichever way it points."""

    count = None if count is None else checked(Count, "count", count, "principal")

    def components(about: Tensor) -> Tensor:
        found = torch.linalg.svd(about, full_matrices=False).Vh[:count]
        return torch.cat([found, -found])

    return _basis(block, "pca", rows, components)


def random_directions(block: str, rows: np.ndarray, count: int, seed: int = 0) -> Basis:
    """Unit vectors drawn uniformly: what any direction of the same norm does."""

    count, seed = checked(Count, "count", count, "random"), checked(Seed, "seed", seed, "random")
    width = np.shape(rows)[-1] if np.ndim(rows) else 0
    require(12 * count * width, f"{count:,} random directions of {width:,} channels")

    def drawn(about: Tensor) -> Tensor:
        vectors = torch.randn(count, about.shape[1], generator=generator(seed))
        return vectors / vectors.norm(dim=1, keepdim=True)

    return _basis(block, "random", rows, drawn)
