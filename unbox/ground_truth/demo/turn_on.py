"""Turning one factor value on with a small set of features, beside random features of equal norm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from unbox.edit import Edits, Feature
from unbox.edits import random_control
from unbox.ground_truth.demo.demo_plan import QUALITY
from unbox.ground_truth.demo.feature_search import Weighted
from unbox.ground_truth.effects import Cases, Outcome, measure
from unbox.ground_truth.factor_scores import Value
from unbox.image_uri import image_uri
from unbox.mask import Mask
from unbox.shapes.detector import Detector
from unbox.shapes.where import edit_mask

#: Success on trial cases that is given up for leaving the other factors alone.
SLACK = 0.1

#: How many test pictures the report shows of each edit.
SHOWN = 6

Saes = Mapping[str, Any]  # block -> SAE


@dataclass(frozen=True)
class Addition:
    """Weighted features of several blocks, added together `strength` times."""

    parts: tuple[Weighted, ...]
    strength: float

    @property
    def names(self) -> list[str]:
        """`up.0.1/17` and so on."""
        return [f"{part.block}/{part.latent}" for part in self.parts]

    def edits(self, saes: Saes, where: Mask | None) -> Edits:
        """The edit, over `where`."""
        adds = Edits()
        for block, latent, weight in self.parts:
            feature = Feature(block, latent, saes[block])
            adds += feature.add(self.strength * weight, unit="absolute", where=where)
        return adds


def choose(
    model: Any, cases: Cases, value: Value, additions: Sequence[Addition], saes: Saes, **options: Any
) -> Addition:
    """Of the additions that succeed nearly as often as the best, the one that changes other factors least."""
    outcomes = [
        tried(model, cases, value, lambda where, a=a: a.edits(saes, where), **options) for a in additions
    ]
    enough = max(outcome.success.mean() for outcome in outcomes) - SLACK
    harms = [
        (outcome.collateral.mean(), i)
        for i, outcome in enumerate(outcomes)
        if outcome.success.mean() >= enough
    ]
    return additions[min(harms)[1]]


def assess(
    model: Any, cases: Cases, value: Value, addition: Addition, saes: Saes, seed: int, **options: Any
) -> dict[str, Any]:
    """What an addition and its random control do to cases: JSON for the report, with pictures."""
    draws = count()
    edited = tried(model, cases, value, lambda where: addition.edits(saes, where), **options)
    control = tried(
        model,
        cases,
        value,
        lambda where: random_control(addition.edits(saes, where), (seed, next(draws))),
        **options,
    )
    shown = zip(cases.prompts, cases.images, edited.images, control.images, strict=True)
    return {
        "factor": value[0],
        "value": value[1],
        "features": addition.names,
        "edits": [edit.to_json() for edit in addition.edits(saes, None)],
        "strength": addition.strength,
        "edited": counted(edited),
        "control": counted(control),
        "pictures": [
            {
                "caption": p.text,
                "before": b,
                "after": image_uri(a, quality=QUALITY),
                "control": image_uri(c, quality=QUALITY),
            }
            for p, b, a, c in list(shown)[:SHOWN]
        ],
    }


def tried(model: Any, cases: Cases, value: Value, edits: Any, **options: Any) -> Outcome:
    """Outcome of `edits`, a function from where the factor is edited to the edits, on every case."""
    return measure(
        model, Detector.load(), cases, lambda scene: edits(edit_mask(value[0], scene)), value, **options
    )


def counted(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON: successes, pictures, and the share of other factors that read as before."""
    hits, n = int(outcome.success.sum()), len(outcome.success)
    return {"hits": hits, "n": n, "kept": float(1 - outcome.collateral.mean())}
