"""Transport of features between two prompts: representation-based image editing as RIEBench does it.

Two runs are recorded from one seed: the **original**, which is to be edited, and the **donor**, whose prompt
says what the edit should bring. Features of all blocks compete for a place by the difference of their
normalised means inside the masks,

    s = mu_donor / sum |mu_donor| - mu_original / sum |mu_original|;

the K highest are added with the donor's codes, the K lowest are taken away with the original's. What comes
out are ordinary edits: they are saved, guarded and recorded like any others.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from unbox.edit import Direction, Edits, Feature
from unbox.edits.terms import TensorDictionary
from unbox.errors import UnboxError
from unbox.mask import Mask, MaskLike

#: How a feature's strength varies over positions. `map`: as recorded, position by position. `mean`, `max`,
#: `quantile` (.95): one number per step, the same at every masked position. `live`: the donor's map is added;
#: what is removed is read from the running model, so that it takes away what is there now.
SPREADS = ("map", "mean", "max", "quantile", "live")

Updates = Mapping[str, np.ndarray]  # block -> (step, y, x, d), float32, one image and branch


@dataclass(frozen=True)
class UpdatePair:
    """The recorded updates of two runs, and masks of what the edit is about in either image."""

    donor: Updates
    original: Updates
    donor_mask: MaskLike = None
    """Where donor features are read and added: array, image, box; None is everywhere."""
    original_mask: MaskLike = None
    """Where original features are read and removed."""


@dataclass(frozen=True)
class _Side:
    """One run's codes at one block: (step, y, x, k) and the weights of its mask (y, x)."""

    values: np.ndarray
    indices: np.ndarray
    weights: np.ndarray

    def means(self, latents: int, steps: int) -> np.ndarray:
        """(latents,) mean code over masked positions of the first `steps` steps."""
        values = self.values[:steps] * self.weights[None, :, :, None]
        total = np.bincount(self.indices[:steps].ravel(), values.ravel(), minlength=latents)
        return total / (max(float(self.weights.sum()), 1e-9) * min(steps, len(self.values)))

    def maps(self, features: np.ndarray) -> np.ndarray:
        """(feature, step, y, x) codes of some features, unmasked."""
        return np.stack([(self.values * (self.indices == f)).sum(-1) for f in features])


def _side(sae: TensorDictionary, updates: np.ndarray, mask: MaskLike) -> _Side:
    codes = sae.encode(torch.from_numpy(np.asarray(updates, np.float32)).to(sae.W_dec))
    placed = Mask.of(mask)
    height, width = updates.shape[1:3]
    weights = np.ones((height, width), np.float32) if placed is None else placed.on(height, width)
    return _Side(codes.values.float().cpu().numpy(), codes.indices.cpu().numpy(), weights)


def choose_features(
    pair: UpdatePair, saes: Mapping[str, TensorDictionary], count: int, steps: int = 1
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Block -> features to add, and block -> features to remove: `count` in all of each.

    `steps`: how many steps from the first the means are taken over (RIEBench: 1). Features that are as active
    in both runs (s = 0) are never chosen.
    """
    scores, owners = [], []
    donors = {
        b: _side(sae, pair.donor[b], pair.donor_mask).means(sae.latents, steps) for b, sae in saes.items()
    }
    originals = {
        b: _side(sae, pair.original[b], pair.original_mask).means(sae.latents, steps)
        for b, sae in saes.items()
    }
    donor_sum = sum(float(np.abs(mu).sum()) for mu in donors.values()) or 1.0
    original_sum = sum(float(np.abs(mu).sum()) for mu in originals.values()) or 1.0
    for block in saes:
        scores.append(donors[block] / donor_sum - originals[block] / original_sum)
        owners += [(block, i) for i in range(len(donors[block]))]
    order = np.argsort(-np.concatenate(scores), kind="stable")
    ranked = np.concatenate(scores)[order]
    added = [owners[i] for i in order[ranked > 0][:count]]
    removed = [owners[i] for i in order[ranked < 0][::-1][:count]]
    return _by_block(added), _by_block(removed)


def _by_block(chosen: list[tuple[str, int]]) -> dict[str, np.ndarray]:
    blocks = dict.fromkeys(block for block, _ in chosen)
    return {block: np.array([i for b, i in chosen if b == block]) for block in blocks}


def transport(
    pair: UpdatePair,
    saes: Mapping[str, TensorDictionary],
    count: int = 80,
    strength: float = 1.0,
    spread: str = "map",
    steps: int = 1,
) -> Edits:
    """Edits that bring the donor's `count` most distinctive features and remove the original's.

    Per step t: Delta_t[donor mask] += strength * z_donor W_dec over added features, and
    Delta_t[original mask] -= strength * z_original W_dec over removed ones. `saes` by block: SAEs, or any
    dictionary with their interface (`unbox.edits.neurons`, ...). Raises UnboxError for an unknown spread or a
    block that was not recorded.
    """
    if spread not in SPREADS:
        raise UnboxError(f"no spread '{spread}'; there are {', '.join(SPREADS)}")
    missing = [block for block in saes if block not in pair.donor or block not in pair.original]
    if missing:
        raise UnboxError(
            f"{missing[0]} was not recorded in both runs; recorded are {', '.join(pair.original)}"
        )
    added, removed = choose_features(pair, saes, count, steps)
    edits = Edits()
    for block, features in added.items():
        side = _side(saes[block], pair.donor[block], pair.donor_mask)
        edits += _moved(saes[block], side, features, strength, "map" if spread == "live" else spread)
    for block, features in removed.items():
        side = _side(saes[block], pair.original[block], pair.original_mask)
        edits += _moved(saes[block], side, features, -strength, spread)
    return edits


def _moved(sae: TensorDictionary, side: _Side, features: np.ndarray, strength: float, spread: str) -> Edits:
    index = tuple(int(f) for f in features)
    everywhere = None if (side.weights == 1).all() else side.weights
    if spread == "live":
        return Edits.of(Feature(sae.block, index, sae=sae).scale(1 + strength, where=everywhere))
    maps = side.maps(features)
    if spread == "map":
        where = maps * side.weights
        return Edits.of(Feature(sae.block, index, sae=sae).add(strength, unit="absolute", where=where))
    curves = _summaries(maps, side.weights, spread)
    adds = [
        Feature(sae.block, f, sae=sae).add(strength * curve, unit="absolute", where=everywhere)
        for f, curve in zip(index, curves, strict=True)
    ]
    return Edits(tuple(adds))


def _summaries(maps: np.ndarray, weights: np.ndarray, spread: str) -> np.ndarray:
    """(feature, step) one number per map over the masked positions."""
    inside = maps[..., weights > 0]
    if spread == "mean":
        return (inside * weights[weights > 0]).sum(-1) / max(float(weights.sum()), 1e-9)
    return inside.max(-1) if spread == "max" else np.quantile(inside, 0.95, axis=-1)


def steer(pair: UpdatePair, blocks: tuple[str, ...], strength: float = 1.0) -> Edits:
    """The baseline of steering vectors: per block and step, the mean masked update of the donor inside the
    donor's mask is added and that of the original inside the original's mask taken away."""
    edits = Edits()
    for block in blocks:
        sides = ((pair.donor, pair.donor_mask, strength), (pair.original, pair.original_mask, -strength))
        for updates, mask, value in sides:
            for step, vector in enumerate(_masked_means(updates[block], mask)):
                edits += Direction(block, vector).add(value, where=mask, steps=(step, step + 1))
    return edits


def _masked_means(updates: np.ndarray, mask: MaskLike) -> np.ndarray:
    """(step, d) mean update over the masked positions."""
    placed = Mask.of(mask)
    _, height, width, _ = updates.shape
    weights = np.ones((height, width), np.float32) if placed is None else placed.on(height, width)
    return np.einsum("tyxd,yx->td", updates, weights) / max(float(weights.sum()), 1e-9)
