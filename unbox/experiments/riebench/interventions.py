"""RIEBench's interventions, as `interventions.py` of wendlerc/RIEBench makes them (commit 1c2ce82).

The donor is the run of the edited prompt, and the run of the original prompt is edited; both from one seed.
Masks are grids of places, R where donor activations are read and E where the original's are removed.

- **SAE**: of the features of all blocks together s = mu_donor / sum(mu_donor) - mu_original /
  sum(mu_original), mu the
  mean code over R of the donor and over E of the original at the first step; the K highest are added, the K
  lowest removed. Per block and step: += m z_donor W_dec over R, and -= m (n_added / n_removed) z W_dec over
  E, with z the
  **running** model's codes and n the summed norms of the block's chosen directions (their numbers, at unit
  norm).
- **Steering**: += m u_donor over R, -= m u_original over E, the recorded updates place by place.
- **Neurons**: hidden units of `ff.net.0` of every layer; s as above from activations divided by their norm
  over the
  mask's places; += m n_donor over R, -= m n_original over E, as recorded.
- **Deleting** takes the original run itself for the donor, everything but the object for R, and adds at E the
  mean over
  R in place of the map.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from unbox.edit import Edits, Feature
from unbox.edits.terms import TensorDictionary
from unbox.edits.transport import added_maps
from unbox.experiments.riebench.activation_shift import ActivationShift, Shift
from unbox.experiments.riebench.neuron_records import Neurons
from unbox.site import block_path

#: Which steps the scores of neurons are taken over: the first, or the mean of all.
ScoredSteps = Literal["first", "mean"]


@dataclass(frozen=True, eq=False)
class PairedRuns:
    """The two recorded runs of an example, and where its edit reads and acts."""

    donor: Mapping[str, np.ndarray]
    """Block -> (step, y, x, d) updates."""
    original: Mapping[str, np.ndarray]
    read: Mapping[str, np.ndarray]
    """Block -> (y, x) bool: where donor activations are read."""
    edited: Mapping[str, np.ndarray]
    """Block -> (y, x) bool: where the original's are removed."""
    spread: bool = False
    """Add the mean over `read` at `edited`, in place of the map at `read`."""
    steps: tuple[int, ...] = ()
    """The scheduler's steps of the recorded updates."""
    donor_neurons: Neurons | None = None
    original_neurons: Neurons | None = None
    layers: Mapping[str, str] | None = None
    """Path of a layer -> its block."""

    def placed(self, block: str, read: np.ndarray) -> np.ndarray:
        """(step, y, x, n) of donor values (step, places of `read`, n): where and as they are added."""
        grid = self.read[block].shape
        out = np.zeros((len(read), *grid, read.shape[-1]), np.float32)
        if self.spread:
            out[:, self.edited[block]] = read.mean(1, keepdims=True)
        else:
            out[:, self.read[block]] = read
        return out


def chosen(
    source: Sequence[np.ndarray], target: Sequence[np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` highest and lowest by s among the units of all parts together, best first; ties by their
    number.

    source, target: mean (units,) of each part.
    """
    shares = [(mean := np.concatenate(side)) / (mean.sum() or 1.0) for side in (source, target)]
    order = np.argsort(shares[0] - shares[1], kind="stable")
    return order[::-1][:count], order[:count]


def scored_mean(values: np.ndarray, over: ScoredSteps = "first", unit_norm: bool = False) -> np.ndarray:
    """(units,) mean over places, of the first step or of all, of values (step, place, unit); with `unit_norm`
    of each unit's values divided by their norm over the places of a step."""
    some = values[: 1 if over == "first" else None].astype(np.float64)
    if unit_norm:
        some = some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-12)
    return some.mean((0, 1))


def split(units: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """The units of each part, numbered within it, of numbers over all parts together."""
    starts = np.cumsum([0, *sizes])
    return [units[(units >= a) & (units < b)] - a for a, b in pairwise(starts)]


def carry_features(
    runs: PairedRuns, saes: Mapping[str, TensorDictionary], count: int, strength: float
) -> Edits:
    """Edits that add `count` features of the donor and remove `count` of the original's, over all blocks."""
    sides = {block: _codes(runs, saes[block], block) for block in saes}
    means = [[scored_mean(codes[side]) for codes in sides.values()] for side in (0, 1)]
    added, removed = chosen(means[0], means[1], count)
    sizes = [sae.latents for sae in saes.values()]
    edits = Edits()
    for block, adding, removing in zip(saes, split(added, sizes), split(removed, sizes), strict=True):
        sae, steps = saes[block], runs.steps
        norms = [
            float(sae.W_dec[units].norm(dim=-1).sum()) if len(units) else 0.0 for units in (adding, removing)
        ]
        if len(adding):
            maps = runs.placed(block, sides[block][0][..., adding])
            every = Feature(block, tuple(map(int, adding)), sae=sae)
            edits += added_maps(every, strength, rearrange(maps, "step y x n -> n step y x"), steps)
        if len(removing) and norms[1]:
            every = Feature(block, tuple(map(int, removing)), sae=sae)
            mask = runs.edited[block].astype(np.float32)
            factor = 1 - strength * norms[0] / norms[1]
            edits += every.scale(factor, where=mask, steps=(steps[0], steps[-1] + 1))
    return edits


def _codes(runs: PairedRuns, sae: TensorDictionary, block: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes (step, place, latents) of the donor at `read` and of the original at `edited`."""
    found = []
    for updates, mask in ((runs.donor, runs.read), (runs.original, runs.edited)):
        rows = torch.from_numpy(np.asarray(updates[block], np.float32)[:, mask[block]]).to(sae.W_dec)
        found.append(sae.encode(rows).dense(sae.latents).float().cpu().numpy())
    return found[0], found[1]


def carry_updates(runs: PairedRuns, strength: float) -> ActivationShift:
    """Steering: the donor's updates are added and the original's taken away, place by place."""
    shifts = {}
    for block in runs.donor:
        delta = runs.placed(block, runs.donor[block][:, runs.read[block]])
        mask = runs.edited[block]
        delta[:, mask] -= runs.original[block][:, mask]
        flat = torch.from_numpy(strength * delta).flatten(1, 2)
        shifts[block_path(block)] = Shift(dict(zip(runs.steps, flat, strict=True)))
    return ActivationShift(shifts)


def carry_neurons(
    runs: PairedRuns, count: int, strength: float, over: ScoredSteps = "first"
) -> ActivationShift:
    """Hidden units: `count` of the donor are added and `count` of the original's taken away, over all
    layers."""
    assert runs.donor_neurons is not None
    assert runs.original_neurons is not None
    assert runs.layers is not None
    sides = (runs.donor_neurons, runs.read), (runs.original_neurons, runs.edited)
    means = [
        [scored_mean(_units(recorded[path], masks[b]), over, True) for path, b in runs.layers.items()]
        for recorded, masks in sides
    ]
    parts = [split(units, list(map(len, means[0]))) for units in chosen(means[0], means[1], count)]
    shifts = {}
    for (path, block), adding, removing in zip(runs.layers.items(), *parts, strict=True):
        units = np.union1d(adding, removing)
        if not len(units):
            continue
        source = _units(runs.donor_neurons[path][..., units], runs.read[block])
        target = _units(runs.original_neurons[path][..., units], runs.edited[block])
        delta = runs.placed(block, source * np.isin(units, adding))
        delta[:, runs.edited[block]] -= target * np.isin(units, removing)
        flat = torch.from_numpy(strength * delta).flatten(1, 2)
        shifts[path] = Shift(dict(zip(runs.steps, flat, strict=True)), torch.from_numpy(units))
    return ActivationShift(shifts)


def _units(recorded: Tensor, mask: np.ndarray) -> np.ndarray:
    """(step, places of the mask, unit) float32 of (step, position, unit)."""
    return recorded[:, torch.from_numpy(mask.ravel())].float().numpy()
