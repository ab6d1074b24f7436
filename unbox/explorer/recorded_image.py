"""A picture and the codes of the SAEs that were recorded while it was made."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unbox.errors import UnboxError
from unbox.explorer.image_recipe import Recipe


@dataclass(frozen=True, eq=False)
class RecordedImage:
    """A picture, and the features that fired while it was made."""

    recipe: Recipe
    image: Image.Image
    steps: tuple[int, ...]
    branches: tuple[str, ...]
    values: Mapping[str, np.ndarray]
    """SAE -> (steps, branches, y, x, k) float16."""
    indices: Mapping[str, np.ndarray]
    """SAE -> the same shape, int32."""

    def heat(self, sae: str, index: int, step: int | None = None) -> np.ndarray:
        """(y, x) activation of a feature, the largest over branches (and steps, where none is named)."""
        values, indices = self._codes(sae, step)
        return np.where(indices == index, values, 0).max((0, 1, 4)).astype(np.float32)

    def strongest(
        self, sae: str, step: int | None, count: int, weight: np.ndarray | None = None
    ) -> list[tuple[str, float]]:
        """(name, mean activation) of the features with the largest, times `weight` (n,) if given."""
        return _ranked(sae, *self._codes(sae, step), count, weight)

    def at(
        self, sae: str, x: float, y: float, step: int | None, count: int, weight: np.ndarray | None = None
    ) -> list[tuple[str, float]]:
        """As `strongest`, at a place that is given in fractions of the picture."""
        values, indices = self._codes(sae, step)
        row = min(int(y * values.shape[2]), values.shape[2] - 1)
        column = min(int(x * values.shape[3]), values.shape[3] - 1)
        return _ranked(sae, values[:, :, row, column], indices[:, :, row, column], count, weight)

    def mean_activations(self, sae: str, latents: int) -> np.ndarray:
        """(latents,) mean activation of each feature over steps, branches and places."""
        return _means(*self._codes(sae, None), latents)

    def peaks(self, sae: str, step: int | None, latents: int) -> np.ndarray:
        """(latents,) float32 largest activation of each feature over steps, branches and places."""
        values, indices = self._codes(sae, step)
        peaks = np.zeros(latents, np.float32)
        np.maximum.at(peaks, indices.ravel(), values.ravel().astype(np.float32))
        return peaks

    def _codes(self, sae: str, step: int | None) -> tuple[np.ndarray, np.ndarray]:
        if sae not in self.values:
            raise UnboxError(f"there is no SAE '{sae}'; there are {', '.join(self.values)}")
        if step is None:
            return self.values[sae], self.indices[sae]
        if step not in self.steps:
            raise UnboxError(f"this run has no step {step}; it has {', '.join(map(str, self.steps))}")
        part = slice(self.steps.index(step), self.steps.index(step) + 1)
        return self.values[sae][part], self.indices[sae][part]


def _means(values: np.ndarray, indices: np.ndarray, latents: int = 0) -> np.ndarray:
    """(at least `latents`,) activation of each feature, as a mean over all places of (..., k) codes."""
    summed = np.bincount(indices.ravel(), values.ravel().astype(np.float64), latents)
    return summed / max(1, values[..., 0].size)


def _ranked(
    sae: str, values: np.ndarray, indices: np.ndarray, count: int, weight: np.ndarray | None
) -> list[tuple[str, float]]:
    means = _means(values, indices)
    score = means if weight is None else means * weight[: len(means)]
    order = np.argsort(-score, kind="stable")[:count]
    return [(f"{sae}/{i}", float(means[i])) for i in order if means[i] > 0]
