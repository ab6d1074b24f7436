"""Causation: does a change of features bring the value, does taking features out make it go, at what cost?"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from unbox.edit import Edits, Feature
from unbox.ground_truth.effects import Cases, Outcome, Recipe, measure
from unbox.ground_truth.factor_scores import Value
from unbox.shapes.where import edit_mask
from unbox.statistics import bootstrap

#: What collateral a chosen edit may have, if any edit stays below it.
TOLERATED = 0.10


def lacking(cases: Cases, value: Value, limit: int) -> Cases:
    """Cases that neither ask for the value nor show it, so that a change has something to change."""
    asked = [scene.factors()[value[0]] != value[1] for scene in cases.scenes]
    return cases.where(
        [a and r[value[0]] != value[1] for a, r in zip(asked, cases.readings, strict=True)], limit
    )


def curve(
    model: Any,
    detector: Any,
    cases: Cases,
    recipe: Callable[..., Edits],
    value: Value,
    strengths: Sequence[float],
    **options: Any,
) -> list[dict[str, float]]:
    """Success against collateral at each strength, with intervals over cases. `recipe(scene, strength=)`."""
    return [
        {
            "strength": s,
            **figures(measure(model, detector, cases, partial(recipe, strength=s), value, **options)),
        }
        for s in strengths
    ]


def ablating(saes: Mapping[str, Any], features: Mapping[str, Sequence[int]], factor: str) -> Recipe:
    """Take features (block -> numbers) out where the factor is seen."""
    subjects = [Feature(block, tuple(some), sae=saes[block]) for block, some in features.items()]
    return lambda scene: Edits(tuple(s.ablate(where=edit_mask(factor, scene)) for s in subjects))


def figures(*draws: Outcome) -> dict[str, float]:
    """Outcomes of the same cases (several draws of a control) as JSON: means over the draws, with 95 %
    bootstrap intervals over the cases."""
    rate = bootstrap(np.mean([draw.success for draw in draws], 0))
    harm = bootstrap(np.mean([draw.collateral for draw in draws], 0))
    return {
        "success": rate.mean,
        "success_low": rate.low,
        "success_high": rate.high,
        "collateral": harm.mean,
        "collateral_low": harm.low,
        "collateral_high": harm.high,
        "cases": len(draws[0].success),
    }


def best(points: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """The point with most success whose collateral is tolerable; if none is, by success - collateral."""
    return best_of([(None, point) for point in points])[1]


def best_of(points: Sequence[tuple[Any, Mapping[str, float]]]) -> tuple[Any, Mapping[str, float]]:
    """The same of pairs (what was done, what came out); of equals the first."""
    fine = [pair for pair in points if pair[1]["collateral"] <= TOLERATED]
    if fine:
        return max(fine, key=lambda pair: (pair[1]["success"], -pair[1]["collateral"]))
    return max(points, key=lambda pair: pair[1]["success"] - pair[1]["collateral"])


def area_under(points: Sequence[Mapping[str, float]]) -> float:
    """Mean success over collateral budgets from 0 to 0.5: the trade-off curve as one number.

    At each budget the best success of any strength within it counts.
    """
    budgets = np.linspace(0, 0.5, 51)
    reached = [max([p["success"] for p in points if p["collateral"] <= b], default=0.0) for b in budgets]
    return float(np.mean(reached))
