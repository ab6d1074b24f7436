"""Transport of features between two prompts: representation-based image editing as RIEBench does it.

Two runs are recorded from one seed: the **original**, which is to be edited, and the **donor**, whose prompt
says what the edit should bring. Features of all blocks compete for a place by the difference of their
normalised means inside the masks,

    s = mu_donor / sum |mu_donor| - mu_original / sum |mu_original|;

the K highest are added with the donor's codes, the K lowest are taken away with the original's. What comes
out are ordinary edits: they are saved, guarded and recorded like any others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from pydantic import PlainValidator

from unbox.edit import Direction, Edits, Feature
from unbox.edits.terms import TensorDictionary
from unbox.errors import FieldError, UnboxError
from unbox.mask import Mask, Where
from unbox.memory_limit import require
from unbox.validation import Count, Real, Several, StepIndex, Steps, checked, validated

#: How a feature's strength varies over positions. `map`: as recorded, position by position. `mean`, `max`,
#: `quantile` (.95): one number per step, the same at every masked position. `live`: the donor's map is added;
#: what is removed is read from the running model, so that it takes away what is there now.
Spread = Literal["map", "mean", "max", "quantile", "live"]
SPREADS = get_args(Spread)


def _updates(value: object) -> object:
    """Arrays of four axes by block."""
    if not isinstance(value, Mapping) or any(
        np.ndim(each) != 4 or 0 in np.shape(each) for each in value.values()
    ):
        raise ValueError("should be updates (step, y, x, d) by block")
    return value


#: Block -> (step, y, x, d), float32, one image and branch.
Updates = Annotated[Mapping[str, np.ndarray], PlainValidator(_updates)]


@validated
class UpdatePair:
    """The recorded updates of two runs, and masks of what the edit is about in either image."""

    donor: Updates
    original: Updates
    donor_mask: Where | None = None
    """Where donor features are read and added: array, image, box; None is everywhere."""
    original_mask: Where | None = None
    """Where original features are read and removed."""
    steps: Several[StepIndex] = ()
    """The scheduler's steps that the updates are of, ascending (`tape.steps`); left out: 0, 1, 2, ..."""

    def __post_init__(self) -> None:
        counts = {len(updates) for run in (self.donor, self.original) for updates in run.values()}
        if self.steps and (counts - {len(self.steps)} or list(self.steps) != sorted(set(self.steps))):
            rule = f"should be the {' or '.join(map(str, sorted(counts)))} steps of the updates, ascending"
            raise FieldError("", "steps", self.steps, rule)

    def at(self, count: int) -> tuple[int, ...]:
        """The scheduler's steps of updates of `count` steps."""
        return self.steps or tuple(range(count))

    @property
    def runs(self) -> tuple[tuple[Updates, Mask | None], tuple[Updates, Mask | None]]:
        """The donor's updates and mask, and the original's."""
        return (self.donor, self.donor_mask), (self.original, self.original_mask)


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
        shape = (len(features), *self.values.shape[:-1])
        require(2 * self.values.itemsize * math.prod(shape), f"maps of {len(features):,} features")
        return np.stack([(self.values * (self.indices == f)).sum(-1) for f in features])


def _side(sae: TensorDictionary, updates: np.ndarray, mask: Mask | None) -> _Side:
    codes = sae.encode(torch.from_numpy(np.asarray(updates, np.float32)).to(sae.W_dec))
    return _Side(codes.values.float().cpu().numpy(), codes.indices.cpu().numpy(), _weights(updates, mask))


def _weights(updates: np.ndarray, mask: Mask | None) -> np.ndarray:
    """(y, x) weights of a mask on the grid of updates (step, y, x, d)."""
    grid = updates.shape[1:3]
    return np.ones(grid, np.float32) if mask is None else mask.on(*grid)


def choose_features(
    pair: UpdatePair, saes: Mapping[str, TensorDictionary], count: int, steps: int = 1
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Block -> features to add, and block -> features to remove: `count` in all of each.

    `steps`: how many steps from the first the means are taken over (RIEBench: 1). Features that are as active
    in both runs (s = 0) are never chosen.
    """
    count, steps = checked(Count, "count", count, "transport"), checked(Steps, "steps", steps, "transport")
    shares = []
    for updates, mask in pair.runs:
        means = [_side(sae, updates[b], mask).means(sae.latents, steps) for b, sae in saes.items()]
        shares.append(np.concatenate(means) / (sum(float(np.abs(mu).sum()) for mu in means) or 1.0))
    scores = shares[0] - shares[1]
    owners = [(block, i) for block, sae in saes.items() for i in range(sae.latents)]
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
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
        raise FieldError("transport", "spread", spread, f"should be one of {', '.join(SPREADS)}")
    strength = checked(Real, "strength", strength, "transport")
    missing = [block for block in saes if block not in pair.donor or block not in pair.original]
    if missing:
        raise UnboxError(
            f"{missing[0]} was not recorded in both runs; recorded are {', '.join(pair.original)}"
        )
    hows = (strength, "map" if spread == "live" else spread), (-strength, spread)
    edits = Edits()
    for chosen, (updates, mask), how in zip(
        choose_features(pair, saes, count, steps), pair.runs, hows, strict=True
    ):
        for block, features in chosen.items():
            at = pair.at(len(updates[block]))
            edits += _moved(saes[block], _side(saes[block], updates[block], mask), features, at, *how)
    return edits


def _moved(
    sae: TensorDictionary,
    side: _Side,
    features: np.ndarray,
    steps: tuple[int, ...],
    strength: float,
    spread: str,
) -> Edits:
    """Edits of some features at the steps that they were recorded at."""
    every = Feature(sae.block, tuple(int(f) for f in features), sae=sae)
    where = None if (side.weights == 1).all() else side.weights
    from_first = steps == tuple(range(len(steps)))
    if spread == "live":
        at = [None] if from_first else [range(first, end) for first, end in runs_of(steps)]
        return Edits(tuple(every.scale(1 + strength, where=where, steps=some) for some in at))
    maps = side.maps(features)
    if spread == "map":
        return added_maps(every, strength, maps * side.weights, steps)
    curves = np.zeros((len(features), steps[-1] + 1))
    curves[:, list(steps)] = strength * _summaries(maps, side.weights, spread)
    some = None if from_first else range(steps[0], steps[-1] + 1)
    ones = [Feature(sae.block, int(f), sae=sae) for f in features]
    adds = [
        f.add(curve, unit="absolute", where=where, steps=some) for f, curve in zip(ones, curves, strict=True)
    ]
    return Edits(tuple(adds))


def added_maps(every: Feature, strength: float, maps: np.ndarray, steps: tuple[int, ...]) -> Edits:
    """An add of maps (feature, step, y, x): a mask's axis of steps counts from the scheduler's first, so that
    maps of other steps are an edit each."""
    if steps == tuple(range(len(steps))):
        return Edits.of(every.add(strength, unit="absolute", where=maps))
    each = [(maps[:, i : i + 1], (step, step + 1)) for i, step in enumerate(steps)]
    return Edits(tuple(every.add(strength, unit="absolute", where=of, steps=at) for of, at in each))


def runs_of(steps: Sequence[int]) -> list[tuple[int, int]]:
    """Half-open ranges that hold ascending steps and no others."""
    starts = [step for step in steps if step - 1 not in steps]
    ends = [step + 1 for step in steps if step + 1 not in steps]
    return list(zip(starts, ends, strict=True))


def _summaries(maps: np.ndarray, weights: np.ndarray, spread: str) -> np.ndarray:
    """(feature, step) one number per map over the masked positions."""
    inside = maps[..., weights > 0]
    if spread == "mean":
        return (inside * weights[weights > 0]).sum(-1) / max(float(weights.sum()), 1e-9)
    return inside.max(-1) if spread == "max" else np.quantile(inside, 0.95, axis=-1)


def steer(pair: UpdatePair, blocks: tuple[str, ...], strength: float = 1.0) -> Edits:
    """The baseline of steering vectors: per block and step, the mean masked update of the donor inside the
    donor's mask is added and that of the original inside the original's mask taken away."""
    strength, edits = checked(Real, "strength", strength, "steer"), Edits()
    for block in blocks:
        for (updates, mask), value in zip(pair.runs, (strength, -strength), strict=True):
            weights = _weights(updates[block], mask)
            means = np.einsum("tyxd,yx->td", updates[block], weights) / max(float(weights.sum()), 1e-9)
            for step, vector in zip(pair.at(len(means)), means, strict=True):
                edits += Direction(block, vector).add(value, where=mask, steps=(step, step + 1))
    return edits
