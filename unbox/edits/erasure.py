"""Erasure of concepts: features are chosen by their codes on recorded concepts, and taken out where they
fire.

`erase` is SAeUron's rule (Cywinski & Deja 2025, `SAE/unlearning_utils.py` and `utils/hooks.py` there), with
m_c the mean code of a feature on concept c at a step, over images and positions:

    score = m_c / sum(m_c) - m_others / sum(m_others)      (m_others: over all images of the other concepts)
    chosen: score > its percentile over the features
    where code > mean over all concepts of m:   code := multiplier * m_c * code

The SAE's error is kept, as with every edit. SAeUron's SAEs read a block's output, ours what they were trained
on, the update in general; that is the whole difference. `erase_by_difference` is a rule of our own: raw
differences of means, and a threshold of the concept's own. Both give ordinary edits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Lt
from einops import rearrange

from activation_store import Rows
from unbox.edit import Branch, Edit, Edits, Feature
from unbox.edits.terms import TensorDictionary
from unbox.errors import FieldError, UnboxError
from unbox.validation import Count, Real, Some, Text, checked

#: A percentile below the largest value.
Percentile = Annotated[Real, Ge(0), Lt(100)]

#: Keeps shares finite where no feature is active, as SAeUron does.
EPSILON = 1e-8

#: Steps of the longest schedule.
LAST = 1000


@dataclass(frozen=True)
class ConceptCodes:
    """What the features of one SAE do on several concepts, at each recorded step of the scheduler."""

    steps: tuple[int, ...]
    means: Mapping[str, np.ndarray]
    """Concept -> (steps, latents) mean code over images, branches and positions, float64."""
    images: Mapping[str, int]
    """Concept -> how many images the mean is over."""

    def importance(self, concept: str) -> np.ndarray:
        """(steps, latents) SAeUron's score of each feature for a concept: how much larger its share of all
        activity is there than on the others; with one concept alone its mean code."""
        mean = self.means[concept]
        return _shares(mean) - _shares(self.without(concept)) if len(self.means) > 1 else mean

    def without(self, concept: str) -> np.ndarray:
        """(steps, latents) mean over all images of the other concepts; 0 where there are none."""
        others = [name for name in self.means if name != concept]
        images = sum(self.images[name] for name in others)
        total = sum(
            (self.means[name] * self.images[name] for name in others), np.zeros_like(self.means[concept])
        )
        return total / max(images, 1)

    @cached_property
    def average(self) -> np.ndarray:
        """(steps, latents) mean over concepts, each counted once."""
        return np.mean(list(self.means.values()), axis=0)


def _shares(mean: np.ndarray) -> np.ndarray:
    return mean / (mean.sum(-1, keepdims=True) + EPSILON)


def concept_codes(sae: TensorDictionary, concepts: Mapping[str, Rows]) -> ConceptCodes:
    """Read recorded rows of an SAE's block, by concept. Every row is read and encoded once, on the SAE's
    device.

    Raises UnboxError where there is no concept, one is empty, or they were recorded at different steps.
    """
    if not concepts:
        raise UnboxError(
            "there are no concepts; give rows by name, as {'cat': store[block].filter(samples=...)}"
        )
    steps = {name: tuple(rows.steps) for name, rows in concepts.items()}
    first, *others = steps
    if other := next((name for name in others if steps[name] != steps[first]), None):
        raise UnboxError(
            f"'{first}' was recorded at steps {_listed(steps[first])} and '{other}' at "
            f"{_listed(steps[other])}; filter both to the same steps"
        )
    means = {name: mean_codes(sae, rows) for name, rows in concepts.items()}
    return ConceptCodes(steps[first], means, {name: rows.shape[0] for name, rows in concepts.items()})


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps[:8])) + (", ..." if len(steps) > 8 else "")


def erase(
    sae: TensorDictionary,
    concepts: Mapping[str, Rows] | ConceptCodes,
    erased: str | Sequence[str],
    *,
    percentile: float = 99.99,
    multiplier: float = -1.0,
    branch: Branch = "both",
    hold: bool = False,
) -> Edits:
    """Edits that take concepts out of a block by SAeUron's rule (see above).

    concepts: recorded rows of the SAE's block by concept, the erased ones among them
    (`{"cat": store[block].filter(samples=...), ...}`), or `concept_codes` of them. `erased`: one concept or
    several at once; a feature that several choose at a step is scaled for the last of them. Each step's edits
    act at that step of the scheduler and, with `hold`, until the next one that was recorded. Raises
    UnboxError for a concept that is not there, and where no feature stands out.
    """
    door = "erase"
    percentile = checked(Percentile, "percentile", percentile, door)
    multiplier = checked(Real, "multiplier", multiplier, door)
    codes = concepts if isinstance(concepts, ConceptCodes) else concept_codes(sae, concepts)
    importance = cache(codes.importance)

    def chosen(name: str, place: int) -> Chosen:
        score, mean = importance(name)[place], codes.means[name][place]
        features = np.flatnonzero(score > np.percentile(score, percentile))
        return features, multiplier * mean[features], codes.average[place][features]

    return _erased(door, sae, codes, erased, chosen, (branch, hold))


def erase_by_difference(
    sae: TensorDictionary,
    concepts: Mapping[str, Rows] | ConceptCodes,
    erased: str | Sequence[str],
    *,
    percentile: float = 99.9,
    scale: float = 0.0,
    fires: float | None = None,
    limit: int | None = None,
    branch: Branch = "both",
    hold: bool = False,
) -> Edits:
    """Edits that take concepts out of a block, by raw differences of mean codes; arguments as of `erase`.

    Features above the `percentile` of the difference to the other concepts (and above 0; at most `limit`) are
    multiplied by `scale` where their code exceeds its mean over the concept's updates or, with `fires`, that
    percentile of its active codes over them (0: wherever it is active; 90: in the strongest tenth), for which
    `concepts` must be rows.
    """
    door = "erase_by_difference"
    percentile, scale = (
        checked(Percentile, "percentile", percentile, door),
        checked(Real, "scale", scale, door),
    )
    fires = None if fires is None else checked(Percentile, "fires", fires, door)
    limit = None if limit is None else checked(Count, "limit", limit, door)
    if fires is not None and isinstance(concepts, ConceptCodes):
        raise FieldError(door, "fires", fires, "needs rows by concept: means do not say it")
    codes = concepts if isinstance(concepts, ConceptCodes) else concept_codes(sae, concepts)
    without = cache(codes.without)

    def chosen(name: str, place: int) -> Chosen:
        mean = codes.means[name][place]
        features = _important(mean - without(name)[place], percentile, limit)
        above = mean[features]
        if fires is not None and not isinstance(concepts, ConceptCodes):
            above = _quantiles(sae, concepts[name], features, fires, place)
        return features, np.full(len(features), scale), above

    return _erased(door, sae, codes, erased, chosen, (branch, hold))


#: Features, what their codes are multiplied by, and above which codes.
Chosen = tuple[np.ndarray, np.ndarray, np.ndarray]


def _erased(
    door: str,
    sae: TensorDictionary,
    codes: ConceptCodes,
    erased: str | Sequence[str],
    choose: Callable[[str, int], Chosen],
    acting: tuple[Branch, bool],
) -> Edits:
    """Edits of what is chosen for each concept at each recorded step. `acting`: branch, and whether to
    hold."""
    branch, hold = acting[0], checked(bool, "hold", acting[1], door)
    names = checked(Some[Text], "erased", erased, door)
    if missing := next((name for name in names if name not in codes.means), None):
        raise FieldError(door, "erased", missing, f"should be a concept: {', '.join(codes.means)}")
    edits: list[Edit] = []
    source = None if sae.name == sae.block else sae.name
    for place, steps in enumerate(acting_steps(codes.steps, hold)):
        found: dict[int, Edit] = {}
        for name in names:
            for feature, value, above in zip(*choose(name, place), strict=True):
                one = Feature(sae.block, int(feature), source=source, sae=sae)
                found[int(feature)] = one.scale(float(value), above=float(above), steps=steps, branch=branch)
        edits += found.values()
    if not edits:
        raise UnboxError(f"no feature of {sae.block} stands out for {', '.join(names)}; lower the percentile")
    return Edits(tuple(edits))


def acting_steps(recorded: Sequence[int], hold: bool = False) -> list[tuple[int, int]]:
    """Half-open ranges of the scheduler's steps at which what was recorded at some steps acts: at each alone
    or, with `hold`, until the next one (the first from step 0, the last to the end)."""
    if not hold:
        return [(step, step + 1) for step in recorded]
    starts = [0, *recorded[1:]]
    return list(zip(starts, [*starts[1:], LAST], strict=True))


def _important(importance: np.ndarray, percentile: float, limit: int | None) -> np.ndarray:
    cut = max(float(np.percentile(importance, percentile)), 0.0)
    order = np.argsort(-importance, kind="stable")
    return order[(importance[order] >= cut) & (importance[order] > 0)][:limit]


def _quantiles(
    sae: TensorDictionary, rows: Rows, features: np.ndarray, percentile: float, place: int
) -> np.ndarray:
    """A percentile of each feature's active codes (0: just under the least) at one recorded step."""
    found: dict[int, list[np.ndarray]] = {int(f): [] for f in features}
    for values, indices in _codes(sae, rows):
        for f, parts in found.items():
            parts.append(values[place][(indices[place] == f) & (values[place] > 0)])
    active = [np.concatenate(parts) for parts in found.values()]
    return np.array([np.percentile(a, percentile) if percentile else 0.0 for a in active])


def mean_codes(sae: TensorDictionary, rows: Rows) -> np.ndarray:
    """(steps, latents) mean code over images, branches and positions, float64."""
    total, count = np.zeros((rows.shape[1], sae.latents)), 0
    for values, indices in _codes(sae, rows):
        pairs = zip(values, indices, strict=True)
        total += np.stack([np.bincount(i.ravel(), v.ravel(), minlength=sae.latents) for v, i in pairs])
        count += values.shape[1]
    if not count:
        raise UnboxError("a contrast set is empty; give at least one recorded image")
    return total / count


def _codes(sae: TensorDictionary, rows: Rows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Values and indices of each image's codes, (step, branch and position, k), encoded on the SAE's
    device."""
    for i in range(rows.shape[0]):
        update = rearrange(np.asarray(rows.read(i), np.float32), "step ... d -> step (...) d")
        codes = sae.encode(torch.from_numpy(update).to(sae.W_dec))
        yield codes.values.float().cpu().numpy(), codes.indices.cpu().numpy()
