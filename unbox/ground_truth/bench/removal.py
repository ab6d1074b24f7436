"""Removal: do features that are ablated take a value out of a picture, and do random ones?"""

from collections.abc import Mapping, Sequence
from itertools import product

from unbox.edit import Edits, Feature
from unbox.edits import controlled
from unbox.ground_truth.bench.bench_inputs import BenchInputs
from unbox.ground_truth.bench.bench_rows import BenchRow
from unbox.ground_truth.bench.methods import carriers
from unbox.ground_truth.bench.trade_off import best_of, on_trials, outcome_rates
from unbox.ground_truth.effects import Cases, Recipe, measure
from unbox.ground_truth.factor_scores import Value
from unbox.sae import SAE
from unbox.shapes.where import edit_mask


def ablating(saes: Mapping[str, SAE], features: Mapping[str, Sequence[int]], factor: str) -> Recipe:
    """Take features (block -> numbers) out where an edit of the factor acts."""
    subjects = [Feature(block, tuple(some), sae=saes[block]) for block, some in features.items()]
    return lambda scene: Edits(tuple(s.ablate(where=edit_mask(factor, scene)) for s in subjects))


def removal(
    bench: BenchInputs, value: Value, blocks: list[list[str]], trials: Cases, tests: Cases
) -> list[BenchRow]:
    """Ablate the features that a value has most of, blocks and size by trial: one row, or none."""
    settings = bench.settings
    few, cases = trials.having(value, settings.trial_cases), tests.having(value, settings.test_cases)
    if not len(few) or not len(cases):
        return []
    tried = []
    for some, size in product(blocks, settings.sizes):
        features = _carrying(bench, value, some, size)
        if all(features.values()):
            recipe = ablating(bench.saes, features, value[0])
            outcome = measure(bench.subject, few, recipe, value, gone=True)
            tried.append(((some, size, recipe), outcome_rates(outcome)))
    if not tried:
        return []
    (some, size, recipe), _ = best_of(tried)
    outcome = measure(bench.subject, cases, recipe, value, gone=True)
    among = on_trials(({"blocks": of, "size": n}, point) for (of, n, _), point in tried)
    return [{"method": "sae", "blocks": some, "size": size, **outcome_rates(outcome), "trials": among}]


def removal_control(bench: BenchInputs, value: Value, removed: BenchRow, tests: Cases) -> BenchRow:
    """As many random features ablated in the same blocks, in the same cases."""
    blocks, size, cases = removed["blocks"], removed["size"], tests.having(value, bench.settings.test_cases)
    recipe = ablating(bench.saes, _carrying(bench, value, blocks, size), value[0])
    outcomes = [
        measure(bench.subject, cases, controlled(recipe, draw), value, gone=True)
        for draw in range(bench.settings.draws)
    ]
    return {"method": "random", "blocks": blocks, "size": size, **outcome_rates(*outcomes)}


def _carrying(
    bench: BenchInputs, value: Value, blocks: Sequence[str], size: int
) -> dict[str, tuple[int, ...]]:
    """Block -> the features that the value has most of."""
    return {b: carriers(bench.dictionaries[b], bench.mean_maps(b), value, size) for b in blocks}
