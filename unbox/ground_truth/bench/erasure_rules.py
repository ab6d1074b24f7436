"""The ways to erase a value that the benchmark compares, each with the options that are tried."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

import numpy as np

from activation_store import Rows
from unbox.edit import Direction, Edits
from unbox.edits import random_control
from unbox.edits.erasure import ConceptCodes, concept_codes, erase, erase_by_difference
from unbox.errors import UnboxError
from unbox.ground_truth.bench.erasure_settings import ErasureSettings
from unbox.ground_truth.bench.learned_change import LEARNED, LearnedChanges
from unbox.ground_truth.factor_scores import Value
from unbox.sae import SAE


@dataclass(frozen=True, eq=False)
class Erasure:
    """One way to erase a value: the same in every picture."""

    option: str
    """What was chosen, for the table."""
    edits: Edits = field(default_factory=Edits)
    negative_prompt: str | None = None
    guidance: float | None = None


@dataclass(frozen=True, eq=False)
class FactorRecords:
    """What was recorded of the values of one factor at one block."""

    sae: SAE
    codes: ConceptCodes
    updates: Mapping[str, np.ndarray]
    """Value -> (steps, d) mean update."""
    learned: LearnedChanges | None = None
    """Where learned baselines are trained; without it there are none."""

    @classmethod
    def of(cls, sae: SAE, rows: Mapping[str, Rows], learned: LearnedChanges | None = None) -> "FactorRecords":
        """Read the rows of each value."""
        means = {}
        for value, some in rows.items():
            total = sum(some.read(i).astype(np.float64).mean((1, 2, 3)) for i in range(some.shape[0]))
            means[value] = np.asarray(total) / some.shape[0]
        return cls(sae, concept_codes(sae, rows), means, learned)

    def difference(self, value: str) -> np.ndarray:
        """(steps, d) mean update of a value less that of the others."""
        others = [mean for name, mean in self.updates.items() if name != value]
        return self.updates[value] - np.mean(others, 0)

    def moved(self, value: str) -> float:
        """How far a value moves the update, in its deviations."""
        return float(np.linalg.norm(self.difference(value), axis=-1).mean() / float(self.sae.update_std))


#: From the records of the blocks tried, the value and the settings to what is tried.
Rule = Callable[[Sequence[FactorRecords], Value, ErasureSettings], list[Erasure]]


def _saeuron(records: Sequence[FactorRecords], value: Value, settings: ErasureSettings) -> list[Erasure]:
    found = []
    for of, percentile, m in product(records, settings.percentiles, settings.multipliers):
        edits = _or_none(lambda: erase(of.sae, of.codes, value[1], percentile=percentile, multiplier=m))  # noqa: B023
        found.append(Erasure(f"{of.sae.block}, {percentile:g} %, {m:g}", edits))
    return found


def _difference(records: Sequence[FactorRecords], value: Value, settings: ErasureSettings) -> list[Erasure]:
    found = []
    for of, percentile, scale in product(records, settings.percentiles, (0.0, -1.0)):
        edits = _or_none(
            lambda: erase_by_difference(of.sae, of.codes, value[1], percentile=percentile, scale=scale)  # noqa: B023
        )
        found.append(Erasure(f"{of.sae.block}, {percentile:g} %, {scale:g}", edits))
    return found


def _swap(records: Sequence[FactorRecords], value: Value, settings: ErasureSettings) -> list[Erasure]:
    found = []
    for of, size in product(records, settings.sizes):
        score, edits = of.codes.importance(value[1]), Edits()
        for place, step in enumerate(of.codes.steps):
            best = np.argsort(-score[place], kind="stable")[:size]
            above = float(of.codes.average[place][best].mean())
            feature = of.sae.feature(tuple(best.tolist()))
            edits += feature.swap(above=above, seed=settings.seed, steps=step)
        found.append(Erasure(f"{of.sae.block}, {size}", edits))
    return found


def _steering(records: Sequence[FactorRecords], value: Value, settings: ErasureSettings) -> list[Erasure]:
    found = []
    for of, strength in product(records, settings.steered):
        edits = Edits()
        for step, vector in zip(of.codes.steps, of.difference(value[1]), strict=True):
            edits += Direction(of.sae.block, vector).add(-strength, steps=step)
        found.append(Erasure(f"{of.sae.block}, {strength:g}", edits))
    return found


def _learned(
    method: str, records: Sequence[FactorRecords], value: Value, settings: ErasureSettings
) -> list[Erasure]:
    found = []
    for of in records:
        if of.learned is not None:
            make = of.learned.erasing(method, of.sae.block, value)
            found += [Erasure(f"{of.sae.block}, {s:g}", Edits.of(make(s))) for s in settings.steered]
    return found


def _negative(records: Sequence[FactorRecords], value: Value, settings: ErasureSettings) -> list[Erasure]:
    return [
        Erasure(f"guidance {guidance:g}", negative_prompt=value[1], guidance=guidance)
        for guidance in settings.negative_guidance
        if guidance > 1
    ]


def _or_none(make: Callable[[], Edits]) -> Edits:
    """The edits, or none where no feature stands out."""
    try:
        return make()
    except UnboxError:
        return Edits()


RULES: Mapping[str, Rule] = {
    "saeuron": _saeuron,
    "difference": _difference,
    "swap": _swap,
    "steering": _steering,
    **{method: partial(_learned, method) for method in LEARNED},
    "negative guidance": _negative,
}


def controls(chosen: Erasure, draws: int) -> list[Erasure]:
    """The edits of SAeUron's rule on random features."""
    return [replace(chosen, edits=random_control(chosen.edits, draw)) for draw in range(draws)]
