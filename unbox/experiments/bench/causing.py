"""Causation: does adding a direction bring the value, does taking it out make it go, and at what cost?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unbox.edits import Edits, Feature
from unbox.experiments.effects import Cases, Outcome, Recipe, measure, object_mask
from unbox.experiments.factors import Value
from unbox.shapes import OBJECT_FACTORS, Scene
from unbox.words import Mask

#: Norms of what is added, in update deviations.
STRENGTHS = (1.0, 2.0, 4.0, 8.0)

#: What collateral a chosen edit may have, if any edit stays below it.
TOLERATED = 0.10


def place(factor: str, scene: Scene) -> Mask | None:
    """Where a factor is seen: its object; around it for the background; everywhere for light and relation."""
    if factor in OBJECT_FACTORS:
        return object_mask(scene)
    inside = object_mask(scene)
    return Mask.of(1 - inside.array) if factor == "background" and inside is not None else None


def adding(direction: Any, strength: float, factor: str) -> Recipe:
    """Add a direction where the factor is seen."""
    return lambda scene: direction.add(strength, where=place(factor, scene))


def removing(direction: Any, factor: str) -> Recipe:
    """Ablate the features that a set adds, where the factor is seen."""
    pairs = zip(direction.features, direction.weights, strict=True)
    brought = tuple(feature for feature, weight in pairs if weight > 0)

    def edits(scene: Scene) -> Edits:
        subject = Feature(direction.sae.block, brought, sae=direction.sae)
        return Edits.of(subject.ablate(where=place(factor, scene)))

    return edits


def curve(
    model: Any,
    detector: Any,
    cases: Cases,
    direction: Any,
    value: Value,
    strengths: Sequence[float],
    **options: Any,
) -> list[dict[str, float]]:
    """Success against collateral at each strength, with intervals over cases."""
    return [
        {
            "strength": s,
            **figures(measure(model, detector, cases, adding(direction, s, value[0]), value, **options)),
        }
        for s in strengths
    ]


def figures(outcome: Outcome) -> dict[str, float]:
    """An outcome as JSON, with 95 % bootstrap intervals over its cases."""
    rate, harm = outcome.rate, outcome.harm
    return {
        "success": rate.mean,
        "success_low": rate.low,
        "success_high": rate.high,
        "collateral": harm.mean,
        "collateral_low": harm.low,
        "collateral_high": harm.high,
        "cases": len(outcome.success),
    }


def best(points: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The point with most success whose collateral is tolerable; if none is, by success - collateral."""
    fine = [p for p in points if p["collateral"] <= TOLERATED]
    if fine:
        return max(fine, key=lambda p: (p["success"], -p["collateral"]))
    return max(points, key=lambda p: p["success"] - p["collateral"])


def area_under(points: Sequence[Mapping[str, float]]) -> float:
    """Mean success over collateral budgets from 0 to 0.5: the trade-off curve as one number.

    At each budget the best success of any strength within it counts.
    """
    budgets = np.linspace(0, 0.5, 51)
    reached = [max([p["success"] for p in points if p["collateral"] <= b], default=0.0) for b in budgets]
    return float(np.mean(reached))
