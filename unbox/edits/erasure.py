"""Erasure of a concept: features chosen from contrast sets, taken out where they fire for it.

After SAeUron: per step, a feature's importance is its mean code over updates of the concept minus its mean
over others. Where a chosen feature exceeds its mean on the concept (or a percentile of its active codes
there), it is scaled (0: ablated; negative: turned round). The SAE's error is kept, as with every edit.
"""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Lt
from einops import rearrange

from activation_store import Rows
from unbox.edit import Edit, Edits, Feature
from unbox.edits.terms import TensorDictionary
from unbox.errors import UnboxError
from unbox.validation import Count, Real, checked

#: A percentile below the largest value.
Percentile = Annotated[Real, Ge(0), Lt(100)]


def erase(
    sae: TensorDictionary,
    concept: Rows,
    others: Rows,
    *,
    percentile: float = 99.9,
    fires: float | None = None,
    scale: float = 0.0,
    limit: int | None = None,
    by_step: bool = True,
) -> Edits:
    """Edits that take a concept out of a block.

    concept, others: recorded rows of the SAE's block (`store[block].filter(samples=...)`) with and without
    the concept. Features above the `percentile` of importance (and above 0; at most `limit`) are multiplied
    by `scale` where their code exceeds its mean over the concept's updates or, with `fires`, that percentile
    of its active codes over them (0: wherever it is active; 90: in the strongest tenth). `by_step` chooses
    anew for each step.
    Raises UnboxError where no feature is more active with the concept than without.
    """
    percentile, scale = (
        checked(Percentile, "percentile", percentile, "erase"),
        checked(Real, "scale", scale, "erase"),
    )
    fires = None if fires is None else checked(Percentile, "fires", fires, "erase")
    limit = None if limit is None else checked(Count, "limit", limit, "erase")
    by_step = checked(bool, "by_step", by_step, "erase")
    with_concept, without = mean_codes(sae, concept, by_step), mean_codes(sae, others, by_step)
    if with_concept.shape != without.shape:
        raise UnboxError(
            f"the sets have {len(with_concept)} and {len(without)} steps; they must have as many"
        )
    edits: list[Edit] = []
    for step, (mean, base) in enumerate(zip(with_concept, without, strict=True)):
        steps = (step, step + 1) if by_step else None
        chosen = _important(mean - base, percentile, limit)
        at = mean[chosen] if fires is None else _quantiles(sae, concept, chosen, fires, steps)
        for feature, above in zip(chosen, at, strict=True):
            edits.append(
                Feature(sae.block, int(feature), sae=sae).scale(scale, above=float(above), steps=steps)
            )
    if not edits:
        raise UnboxError(f"no feature of {sae.block} is more active with the concept than without")
    return Edits(tuple(edits))


def _important(importance: np.ndarray, percentile: float, limit: int | None) -> np.ndarray:
    cut = max(float(np.percentile(importance, percentile)), 0.0)
    order = np.argsort(-importance, kind="stable")
    return order[(importance[order] >= cut) & (importance[order] > 0)][:limit]


def _quantiles(
    sae: TensorDictionary, rows: Rows, features: np.ndarray, percentile: float, steps: tuple[int, int] | None
) -> list[float]:
    """A percentile of each feature's active codes (0: just under the least), at some steps or all."""
    found: dict[int, list[np.ndarray]] = {int(f): [] for f in features}
    for values, indices in _codes(sae, rows, "... d -> (...) d", steps):
        for f, parts in found.items():
            parts.append(values[(indices == f) & (values > 0)])
    active = [np.concatenate(parts) for parts in found.values()]
    return [float(np.percentile(a, percentile)) if percentile else 0.0 for a in active]


def mean_codes(sae: TensorDictionary, rows: Rows, by_step: bool = True) -> np.ndarray:
    """Mean code over images, branches and positions: float64 (steps, latents), or (1, latents)."""
    total, count = np.zeros(()), 0
    axes = "step ... d -> step (...) d" if by_step else "... d -> 1 (...) d"
    for values, indices in _codes(sae, rows, axes):
        pairs = zip(values, indices, strict=True)
        total = total + np.stack([np.bincount(i.ravel(), v.ravel(), minlength=sae.latents) for v, i in pairs])
        count += values.shape[1]
    if not count:
        raise UnboxError("a contrast set is empty; give at least one recorded image")
    return total / count


def _codes(
    sae: TensorDictionary, rows: Rows, axes: str, steps: tuple[int, int] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Values and indices of each image's codes, its update (step, branch, y, x, d) laid out along `axes`."""
    for i in range(rows.shape[0]):
        update = rearrange(np.asarray(rows.read(i)[slice(*steps or (None,))], np.float32), axes)
        codes = sae.encode(torch.from_numpy(update).to(sae.W_dec))
        yield codes.values.float().cpu().numpy(), codes.indices.cpu().numpy()
