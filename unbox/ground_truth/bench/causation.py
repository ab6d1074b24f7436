"""Causation: does a change of features bring the value, at what cost, and does one of random features?"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial

from activation_store.files import canonical
from unbox.edits.controls import CONTROL_RULE, controlled
from unbox.ground_truth.bench.bench_inputs import BenchInputs
from unbox.ground_truth.bench.bench_rows import BenchRow
from unbox.ground_truth.bench.bench_settings import BenchSettings
from unbox.ground_truth.bench.guarded_change import MORE_TRIALS, guarded_change
from unbox.ground_truth.bench.learned_change import LEARNED
from unbox.ground_truth.bench.mean_maps import MAPPED
from unbox.ground_truth.bench.methods import ARMS, SINGLE, SPREADS, Joint, change
from unbox.ground_truth.bench.removal import removal, removal_control
from unbox.ground_truth.bench.trade_off import area_under, best_of, on_trials, outcome_rates
from unbox.ground_truth.effects import Cases, measure
from unbox.ground_truth.factor_scores import Value
from unbox.json_types import JSON

#: Methods without a number of features.
WHOLE = ("steering", *LEARNED)

Shifts = Mapping[str, Mapping[Value, float]]


@dataclass(frozen=True)
class ChangeOption:
    """One way to make the change: in these blocks, with this spread, of so many features in each."""

    blocks: list[str]
    spread: str
    size: int


def causation(
    bench: BenchInputs, shifts: Shifts, trials: Cases, tests: Cases
) -> tuple[list[BenchRow], list[BenchRow]]:
    """For every value: each method's change, the control of the SAE's, and the removal of its features."""
    added: list[BenchRow] = []
    removed: list[BenchRow] = []
    for value in bench.bar([v for v in bench.settings.values if v in MAPPED], "causation"):
        about: BenchRow = {"factor": value[0], "value": value[1]}
        blocks, cached = _blocks_to_edit(bench, shifts, value), bench.results.get
        changes = {
            method: cached(
                ["causation", value, method], _choose_change, bench, method, value, blocks, trials, tests
            )
            for method in ("sae", *(m for m in bench.settings.methods if m not in ARMS))
        }
        of_sae = bench, value, changes["sae"], tests
        for arm in (m for m in bench.settings.methods if m in ARMS):
            changes[arm] = cached(["causation", value, arm], _arm, arm, trials, *of_sae)
        changes["random"] = cached(["control", value, CONTROL_RULE], _control, *of_sae)
        added += [{**about, "method": method, **row} for method, row in changes.items()]
        for row in cached(["removal", value], removal, bench, value, blocks, trials, tests)[:1]:
            # A version before kept a control of another rule with it.
            control = cached(
                ["removal control", value, CONTROL_RULE], removal_control, bench, value, row, tests
            )
            removed += [{**about, **row}, {**about, **control}]
    return added, removed


def causation_keys(settings: BenchSettings, value: Value) -> list[JSON]:
    """The names of a value's results; of the control of a removal, which may be none, no name."""
    methods = ("sae", *settings.methods)
    return [["causation", value, m] for m in methods] + [["control", value, CONTROL_RULE], ["removal", value]]


def lacking(cases: Cases, value: Value, limit: int) -> Cases:
    """Cases that neither ask for the value nor show it, so that a change has something to change."""
    factor, wanted = value
    asked = [scene.factors()[factor] for scene in cases.scenes]
    shown = [reading[factor] for reading in cases.readings]
    return cases.where([wanted not in pair for pair in zip(asked, shown, strict=True)], limit)


def _blocks_to_edit(bench: BenchInputs, shifts: Shifts, value: Value) -> list[list[str]]:
    """Sets of blocks to edit: those whose updates the value moves most, one by one and together."""
    order = sorted(shifts, key=lambda block: -shifts[block][value])
    together = sorted({min(count, len(order)) for count in bench.settings.together} - {1})
    return [[block] for block in order[: bench.settings.blocks_tried]] + [order[:n] for n in together]


def _joint(bench: BenchInputs, method: str, value: Value, option: ChangeOption) -> Joint:
    """The change of an option, in all of its blocks."""
    if method in LEARNED:
        return Joint(tuple(bench.learned.change(method, block, value) for block in option.blocks))
    how = method, value, option.size, option.spread
    return Joint(tuple(change(bench.dictionaries[b], bench.mean_maps(b), *how) for b in option.blocks))


def _points(
    bench: BenchInputs, cases: Cases, method: str, value: Value, option: ChangeOption
) -> list[BenchRow]:
    """Success and collateral of a change at every strength, with intervals over cases; of the same change of
    the same cases, which several methods try, measured once in a process."""
    key = canonical([method, value, asdict(option), cases.seeds])
    if key not in bench.points:
        joint = _joint(bench, method, value, option)
        outcomes = [
            (s, measure(bench.subject, cases, partial(joint.edits, strength=s), value))
            for s in bench.settings.strengths
        ]
        bench.points[key] = [{"strength": s, **outcome_rates(outcome)} for s, outcome in outcomes]
    return bench.points[key]


def _choose_change(
    bench: BenchInputs, method: str, value: Value, blocks: list[list[str]], trials: Cases, tests: Cases
) -> BenchRow:
    """Choose blocks, then spread, then size, each with its best strength, on trial cases; the whole curve of
    what was chosen on test cases."""
    settings = bench.settings
    few, many = lacking(trials, value, settings.trial_cases), lacking(tests, value, settings.test_cases)
    if method == SINGLE:
        method, blocks = "sae", [[b] for b in dict.fromkeys(block for some in blocks for block in some)]
    base = ChangeOption(blocks[0], SPREADS[0], max(settings.sizes))
    tried: list[tuple[ChangeOption, BenchRow]] = []
    for choices in (
        lambda base: [replace(base, blocks=some) for some in blocks],
        lambda base: [replace(base, spread=spread) for spread in SPREADS[1:] if method not in LEARNED],
        lambda base: [replace(base, size=n) for n in sorted(settings.sizes)[:-1] if method not in WHOLE],
    ):
        for option in choices(base):
            tried += [(option, point) for point in _points(bench, few, method, value, option)]
        base, best = best_of(tried)
    joint = _joint(bench, method, value, base)
    curve = _points(bench, many, method, value, base)
    chosen = _chosen(base, joint.name, best["strength"], curve)
    return {**chosen, "features": joint.features, "trials": on_trials((_about(o), p) for o, p in tried)}


def _chosen(option: ChangeOption, name: str, strength: float, curve: list[BenchRow]) -> BenchRow:
    point = next(p for p in curve if p["strength"] == strength)
    return {**_about(option), "name": name, **point, "area": area_under(curve), "curve": curve}


def _about(option: ChangeOption) -> BenchRow:
    return {**asdict(option)}  # type: ignore[typeddict-item]


def _arm(
    arm: str, trials: Cases, bench: BenchInputs, value: Value, of_sae: BenchRow, tests: Cases
) -> BenchRow:
    """The SAE's chosen edit made with fewer artifacts."""
    settings = bench.settings
    option = ChangeOption(of_sae["blocks"], of_sae["spread"], of_sae["size"])
    few = lacking(trials, value, MORE_TRIALS * settings.trial_cases)
    many = lacking(tests, value, settings.test_cases)
    return guarded_change(bench, arm, value, of_sae, _joint(bench, "sae", value, option), few, many)


def _control(bench: BenchInputs, value: Value, of_sae: BenchRow, tests: Cases) -> BenchRow:
    """The SAE's chosen edit on random features: the same blocks, maps, size and norm, at every strength."""
    settings, chosen = bench.settings, of_sae["strength"]
    option = ChangeOption(of_sae["blocks"], of_sae["spread"], of_sae["size"])
    joint, cases = _joint(bench, "sae", value, option), lacking(tests, value, settings.test_cases)
    curve: list[BenchRow] = []
    for strength in settings.strengths:
        recipe = partial(joint.edits, strength=strength)
        draws = range(settings.draws if strength == chosen else 1)
        outcomes = [measure(bench.subject, cases, controlled(recipe, draw), value) for draw in draws]
        curve.append({"strength": strength, **outcome_rates(*outcomes)})
    return _chosen(option, "random features", chosen, curve)
