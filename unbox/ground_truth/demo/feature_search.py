"""Which feature tells which factor value, read where the factor is to be seen: on objects, or everywhere.

Codes are pooled over the positions of each object (known in the Shapes world), so that a feature is asked
about one object at a time, also in pictures of two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from einops import reduce
from torch import Tensor

from unbox.edits.terms import TensorDictionary
from unbox.ground_truth.factor_scores import UpdateRows, blocks_of, on_grid
from unbox.shapes import FACTORS, OBJECT_FACTORS, Scene, masks
from unbox.statistics import auroc

Latent = tuple[str, int]  # block, number


class Weighted(NamedTuple):
    """A feature, and how much of it an edit adds."""

    block: str
    latent: int
    weight: float


@dataclass(frozen=True)
class PooledCodes:
    """Mean codes of one block over steps, and over the positions of objects or of whole pictures."""

    objects: np.ndarray
    """(objects, n): over the positions that each object of each picture covers."""
    pictures: np.ndarray
    """(pictures, n): over all positions."""

    def of(self, factor: str) -> np.ndarray:
        """The rows in which a factor is to be seen."""
        return self.objects if factor in OBJECT_FACTORS else self.pictures


def values_of(scenes: Sequence[Scene], factor: str) -> np.ndarray:
    """A factor's value in the rows of `PooledCodes.of(factor)`."""
    if factor not in OBJECT_FACTORS:
        return np.array([getattr(scene, factor) for scene in scenes])
    return np.array([getattr(thing, factor) for scene in scenes for thing in scene.objects])


def pooled(sae: TensorDictionary, rows: UpdateRows, scenes: Sequence[Scene]) -> PooledCodes:
    """Codes of a block's rows in a store, pooled; `scenes` are those of its first pictures, in order."""
    _, steps, branches, height, width, _ = rows.shape
    covers = [on_grid(masks(scene), height, width) for scene in scenes]
    shares = np.concatenate([cover / cover.sum(1, keepdims=True) for cover in covers])
    owner = np.repeat(np.arange(len(scenes)), [len(cover) for cover in covers])  # picture of each object
    objects, pictures, first = [], [], 0
    for codes in blocks_of(sae, rows, range(len(scenes))):
        values, indices = codes.values.float() / (steps * branches), codes.indices.long()
        pictures.append(summed(values / (height * width), indices, sae.latents))
        here = np.flatnonzero((owner >= first) & (owner < first + len(values)))
        weights = torch.from_numpy(np.tile(shares[here], (1, steps * branches))).float()
        row = torch.from_numpy(owner[here] - first)
        objects.append(summed(values[row] * weights[..., None], indices[row], sae.latents))
        first += len(values)
    return PooledCodes(np.concatenate(objects), np.concatenate(pictures))


def summed(values: Tensor, indices: Tensor, latents: int) -> np.ndarray:
    """Sums of sparse codes (rows, positions, k) over positions: (rows, n)."""
    return (
        values.new_zeros(len(values), latents).scatter_add_(1, indices.flatten(1), values.flatten(1)).numpy()
    )


def maps(sae: TensorDictionary, rows: UpdateRows, features: Sequence[int]) -> np.ndarray:
    """Maps of some features, averaged over steps and branches: (features, pictures, y, x)."""
    _, steps, branches, height, width, _ = rows.shape
    parts = []
    for codes in blocks_of(sae, rows):
        found = torch.stack([(codes.values * (codes.indices == i)).sum(-1) for i in features])
        maps_of = "feature n (view y x) -> feature n y x"
        parts.append(reduce(found, maps_of, "mean", view=steps * branches, y=height, x=width).numpy())
    return np.concatenate(parts, axis=1)


def tables(codes: PooledCodes, scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """AUROC of every latent for every value of every factor: factor -> (values, n)."""
    return {
        factor: auroc(codes.of(factor), values_of(scenes, factor)[:, None] == np.array(values))
        for factor, values in FACTORS.items()
    }


def contrast(codes: PooledCodes, scenes: Sequence[Scene], factor: str, value: str) -> np.ndarray:
    """How much more each latent is active where a factor has a value than where it has another: (n,)."""
    rows, chosen = codes.of(factor), values_of(scenes, factor) == value
    return rows[chosen].mean(0) - rows[~chosen].mean(0)


def ranking(
    codes: Mapping[str, PooledCodes],
    deviation: Mapping[str, float],
    scenes: Sequence[Scene],
    target: tuple[str, str],
) -> list[Weighted]:
    """Features that are more active where a factor has a value, weighted by how much more (their contrast).

    Those of all blocks in one list, by contrast over the block's deviation: what carries most comes first.
    """
    features = [
        Weighted(block, i, float(weight))
        for block, of in codes.items()
        for i, weight in enumerate(contrast(of, scenes, *target))
        if weight > 0
    ]
    return sorted(features, key=lambda f: f.weight / deviation[f.block], reverse=True)
