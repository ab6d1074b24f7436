"""Removal: do features that are ablated take a value out of a picture, and do random ones?"""

from collections.abc import Mapping, Sequence
from itertools import product

from unbox.edit import Edits, Feature
from unbox.ground_truth.bench.bench_inputs import BenchInputs
from unbox.ground_truth.bench.bench_rows import RemovalRow
from unbox.ground_truth.bench.methods import carriers
from unbox.ground_truth.bench.trade_off import best_of, outcome_rates
from unbox.ground_truth.effects import Cases, Outcome, Recipe, controlled, measure
from unbox.ground_truth.factor_scores import Value
from unbox.sae import SAE
from unbox.shapes.where import edit_mask


def ablating(saes: Mapping[str, SAE], features: Mapping[str, Sequence[int]], factor: str) -> Recipe:
    """Take features (block -> numbers) out where an edit of the factor acts."""
    subjects = [Feature(block, tuple(some), sae=saes[block]) for block, some in features.items()]
    return lambda scene: Edits(tuple(s.ablate(where=edit_mask(factor, scene)) for s in subjects))


def removal(
    bench: BenchInputs, value: Value, blocks: list[list[str]], trials: Cases, tests: Cases
) -> list[RemovalRow]:
    """Ablate the features that a value has most of, and as many random ones; blocks and size by trial."""
    settings = bench.settings
    few, cases = trials.having(value, settings.trial_cases), tests.having(value, settings.test_cases)
    if not len(few) or not len(cases):
        return []

    def gone(of: Cases, recipe: Recipe) -> Outcome:
        return measure(bench.subject, of, recipe, value, gone=True)

    tried = []
    for some, size in product(blocks, settings.sizes):
        features = {b: carriers(bench.dictionaries[b], bench.mean_maps(b), value, size) for b in some}
        if all(features.values()):
            recipe = ablating(bench.saes, features, value[0])
            tried.append(((some, size, recipe), outcome_rates(gone(few, recipe))))
    if not tried:
        return []
    (some, size, recipe), _ = best_of(tried)
    controls = [gone(cases, controlled(recipe, draw)) for draw in range(settings.draws)]
    return [
        {"method": "sae", "blocks": some, "size": size, **outcome_rates(gone(cases, recipe))},
        {"method": "random", "blocks": some, "size": size, **outcome_rates(*controls)},
    ]
