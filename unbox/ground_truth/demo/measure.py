"""What the autoencoders keep, and which of their features tells which factor."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from activation_store import Store
from unbox.ground_truth.demo.demo_plan import SEARCHED, DemoPlan
from unbox.ground_truth.demo.feature_search import Latent, pooled, ranking, tables
from unbox.ground_truth.demo.top_pictures import top_examples
from unbox.ground_truth.factor_scores import scenes_of
from unbox.sae import SAE, evaluate
from unbox.shapes import FACTORS

#: Features of a ranking that are kept.
RANKED = 64

#: An AUROC where the held-out pictures show a value never or always, so that there is none.
CHANCE = 0.5


def measure(store: Store, saes: Mapping[str, SAE]) -> list[dict[str, Any]]:
    """Held-out figures of every SAE."""
    rows = []
    for block, sae in tqdm(saes.items(), unit="block", leave=False):
        shape, figures = store[block].shape, evaluate(sae, store[block])
        rows.append({
            "block": block, "positions": f"{shape[3]}\u00d7{shape[4]}", "width": sae.width,
            "explained": figures.explained_variance, "active": figures.l0, "dead": figures.dead_fraction,
            "deviation": sae.update_std,
        })  # fmt: skip
    return rows


def find(plan: DemoPlan, store: Store, heldout: Store, saes: Mapping[str, SAE]) -> dict[str, Any]:
    """What features tell: JSON for the report.

    For every block and factor, how well its best feature tells the values; for every target, the feature that
    tells it best, with examples, and all features ranked by how much of it they carry. Features are chosen on
    the training store and measured on the held-out one.
    """
    scenes, others = scenes_of(store, range(min(plan.searched or SEARCHED, len(store)))), scenes_of(heldout)
    codes = {b: pooled(sae, store[b], scenes) for b, sae in tqdm(saes.items(), unit="block", leave=False)}
    choice = {block: tables(of, scenes) for block, of in codes.items()}
    figure = {block: tables(pooled(sae, heldout[block], others), others) for block, sae in saes.items()}
    owners = {
        block: {factor: _mean_of_best(table, figure[block][factor]) for factor, table in of.items()}
        for block, of in choice.items()
    }
    tellers = [best_teller(choice, target) for target in plan.values]
    shown = top_examples(heldout, saes, tellers)
    for (factor, value), (block, i), example in zip(plan.values, tellers, shown, strict=True):
        score = figure[block][factor][FACTORS[factor].index(value), i]
        example |= {"factor": factor, "value": value, "auroc": float(np.nan_to_num(score, nan=CHANCE))}
    deviation = {block: sae.update_std for block, sae in saes.items()}
    ranked = [ranking(codes, deviation, scenes, target)[:RANKED] for target in plan.values]
    return {"owners": owners, "features": shown, "ranked": ranked}


def _mean_of_best(chosen: np.ndarray, figure: np.ndarray) -> float:
    """Mean over values of the figure (values, n) of the feature that is best by `chosen` (values, n)."""
    best = np.take_along_axis(figure, chosen.argmax(1, keepdims=True), 1)
    return float(np.nan_to_num(best, nan=CHANCE).mean())


def best_teller(choice: Mapping[str, Mapping[str, np.ndarray]], target: tuple[str, str]) -> Latent:
    """The feature of all blocks that tells a factor value best."""
    factor, value = target
    rows = {block: table[factor][FACTORS[factor].index(value)] for block, table in choice.items()}
    block = max(rows, key=lambda block: rows[block].max())
    return block, int(rows[block].argmax())
