"""Success against collateral: rates with intervals, the best of several edits, the curve as one number."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from unbox.ground_truth.bench.bench_rows import BenchRow
from unbox.ground_truth.effects import Outcome
from unbox.statistics import bootstrap

#: What collateral a chosen edit may have, if any edit stays below it.
TOLERATED = 0.10

#: Of what was tried and not chosen these figures are kept.
KEPT = ("strength", "success", "collateral", "artifacts", "cases")

Option = TypeVar("Option")


def rates(success: np.ndarray, collateral: np.ndarray, artifacts: np.ndarray) -> BenchRow:
    """Of numbers (cases,): means with bootstrap intervals over the cases."""
    columns = bootstrap(success).columns("success") | bootstrap(collateral).columns("collateral")
    columns |= bootstrap(artifacts).columns("artifacts")
    return {**columns, "cases": len(success)}  # type: ignore[typeddict-item]


def outcome_rates(*draws: Outcome) -> BenchRow:
    """Of outcomes of the same cases (several draws of a control): means over the draws first."""
    measured = ([d.success for d in draws], [d.collateral for d in draws], [d.artifacts for d in draws])
    return rates(*(np.mean(of_draws, 0) for of_draws in measured))


def best_of(tried: Sequence[tuple[Option, BenchRow]]) -> tuple[Option, BenchRow]:
    """Of pairs (what was done, what came out) the one with most success whose collateral is tolerable; if
    none is, by success - collateral; of equals the first."""
    fine = [pair for pair in tried if pair[1]["collateral"] <= TOLERATED]
    if fine:
        return max(fine, key=lambda pair: (pair[1]["success"], -pair[1]["collateral"]))
    return max(tried, key=lambda pair: pair[1]["success"] - pair[1]["collateral"])


def on_trials(tried: Iterable[tuple[BenchRow, BenchRow]]) -> list[BenchRow]:
    """Of pairs (what was done, what came out on trial pictures) a row each, without intervals."""
    rows = [{**done, **{name: v for name, v in came.items() if name in KEPT}} for done, came in tried]
    return rows  # type: ignore[return-value]


def area_under(points: Sequence[BenchRow]) -> float:
    """Mean success over collateral budgets from 0 to 0.5: the trade-off curve as one number.

    At each budget the best success of any strength within it counts.
    """
    budgets = np.linspace(0, 0.5, 51)
    reached = [max([p["success"] for p in points if p["collateral"] <= b], default=0.0) for b in budgets]
    return float(np.mean(reached))
