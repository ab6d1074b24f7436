"""Causation: does a change of features bring the value, at what cost, and does one of random features?"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from unbox.edits.controls import CONTROL_RULE
from unbox.ground_truth.bench.bench_inputs import BenchInputs
from unbox.ground_truth.bench.bench_rows import CausationRow, ChosenChange, Point, RemovalRow
from unbox.ground_truth.bench.mean_maps import MAPPED
from unbox.ground_truth.bench.methods import METHODS, SPREADS, Joint, change
from unbox.ground_truth.bench.removal import removal, removal_control
from unbox.ground_truth.bench.trade_off import area_under, best_of, outcome_rates
from unbox.ground_truth.effects import Cases, controlled, measure
from unbox.ground_truth.factor_scores import Value
from unbox.json_types import JSON

Shifts = Mapping[str, Mapping[Value, float]]


@dataclass(frozen=True)
class ChangeOption:
    """One way to make the change: in these blocks, with this spread, of so many features in each."""

    blocks: list[str]
    spread: str
    size: int


def causation(
    bench: BenchInputs, shifts: Shifts, trials: Cases, tests: Cases
) -> tuple[list[CausationRow], list[RemovalRow]]:
    """For every value: each method's change, the control of the SAE's, and the removal of its features."""
    added: list[CausationRow] = []
    removed: list[RemovalRow] = []
    for factor, value in bench.bar([v for v in bench.settings.values if v in MAPPED], "causation"):
        target = factor, value
        blocks, cached = _blocks_to_edit(bench, shifts, target), bench.results.get
        for method in METHODS[:-1]:
            key = ["causation", [factor, value], method]
            chosen = cached(key, _choose_change, bench, method, target, blocks, trials, tests)
            added.append({"factor": factor, "value": value, "method": method, **chosen})
        of_sae = next(row for row in added if (row["factor"], row["value"]) == target)
        control = cached(["control", [factor, value], CONTROL_RULE], _control, bench, target, of_sae, tests)
        added.append({"factor": factor, "value": value, "method": "random", **control})
        rows = cached(["removal", [factor, value]], removal, bench, target, blocks, trials, tests)
        for row in rows[:1]:  # a version before kept a control of another rule with it
            control_key: JSON = ["removal control", [factor, value], CONTROL_RULE]
            pair = row, cached(control_key, removal_control, bench, target, row, tests)
            removed += [{"factor": factor, "value": value, **each} for each in pair]
    return added, removed


def lacking(cases: Cases, value: Value, limit: int) -> Cases:
    """Cases that neither ask for the value nor show it, so that a change has something to change."""
    asked = [scene.factors()[value[0]] != value[1] for scene in cases.scenes]
    return cases.where(
        [a and r[value[0]] != value[1] for a, r in zip(asked, cases.readings, strict=True)], limit
    )


def _blocks_to_edit(bench: BenchInputs, shifts: Shifts, value: Value) -> list[list[str]]:
    """Sets of blocks to edit: those whose updates the value moves most, one by one and together."""
    order = sorted(shifts, key=lambda block: -shifts[block][value])
    together = sorted({min(count, len(order)) for count in bench.settings.together} - {1})
    return [[block] for block in order[: bench.settings.blocks_tried]] + [order[:n] for n in together]


def _joint(bench: BenchInputs, method: str, value: Value, option: ChangeOption) -> Joint:
    """The change of an option, in all of its blocks."""
    return Joint(
        tuple(
            change(bench.dictionaries[b], bench.mean_maps(b), method, value, option.size, option.spread)
            for b in option.blocks
        )
    )


def _curve(bench: BenchInputs, cases: Cases, value: Value, joint: Joint) -> list[Point]:
    """Success against collateral at each strength, with intervals over cases."""
    curve: list[Point] = []
    for strength in bench.settings.strengths:
        outcome = measure(bench.subject, cases, partial(joint.edits, strength=strength), value)
        curve.append({"strength": strength, **outcome_rates(outcome)})
    return curve


def _choose_change(
    bench: BenchInputs, method: str, value: Value, blocks: list[list[str]], trials: Cases, tests: Cases
) -> ChosenChange:
    """Choose blocks, then spread, then size, each with its best strength, on trial cases; the whole curve of
    what was chosen on test cases."""
    settings = bench.settings
    few, many = (
        lacking(cases, value, limit)
        for cases, limit in ((trials, settings.trial_cases), (tests, settings.test_cases))
    )
    base = ChangeOption(blocks[0], SPREADS[0], max(settings.sizes))
    tried: list[tuple[tuple[ChangeOption, float], Point]] = []
    for choices in (
        lambda base: [replace(base, blocks=some) for some in blocks],
        lambda base: [replace(base, spread=spread) for spread in SPREADS[1:]],
        lambda base: [replace(base, size=n) for n in sorted(settings.sizes)[:-1] if method != "steering"],
    ):
        for option in choices(base):
            points = _curve(bench, few, value, _joint(bench, method, value, option))
            tried += [((option, point["strength"]), point) for point in points]
        base = best_of(tried)[0][0]
    (option, strength), _ = best_of(tried)
    joint = _joint(bench, method, value, option)
    curve = _curve(bench, many, value, joint)
    return {**_chosen(option, joint.name, strength, curve), "features": joint.features}


def _chosen(option: ChangeOption, name: str, strength: float, curve: list[Point]) -> ChosenChange:
    point = next(p for p in curve if p["strength"] == strength)
    return {
        "blocks": option.blocks,
        "spread": option.spread,
        "size": option.size,
        "name": name,
        **point,
        "area": area_under(curve),
        "curve": curve,
    }


def _control(bench: BenchInputs, value: Value, of_sae: CausationRow, tests: Cases) -> ChosenChange:
    """The SAE's chosen edit on random features: the same blocks, maps, size and norm, at every strength."""
    settings, chosen = bench.settings, of_sae["strength"]
    option = ChangeOption(of_sae["blocks"], of_sae["spread"], of_sae["size"])
    joint, cases = _joint(bench, "sae", value, option), lacking(tests, value, settings.test_cases)
    curve: list[Point] = []
    for strength in settings.strengths:
        recipe = partial(joint.edits, strength=strength)
        draws = range(settings.draws if strength == chosen else 1)
        outcomes = [measure(bench.subject, cases, controlled(recipe, draw), value) for draw in draws]
        curve.append({"strength": strength, **outcome_rates(*outcomes)})
    return _chosen(option, "random features", chosen, curve)
