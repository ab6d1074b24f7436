"""What the autoencoders keep, and which of their features tells which factor."""

from typing import Any

import numpy as np
from tqdm import tqdm

from unbox.ground_truth.demo.collect_and_fit import autoencoders, opened
from unbox.ground_truth.demo.demo_plan import DemoPlan
from unbox.ground_truth.demo.feature_search import Latent, pooled, ranking, tables
from unbox.ground_truth.demo.top_pictures import top_examples
from unbox.ground_truth.factor_scores import scenes_of
from unbox.result_cache import Stage
from unbox.sae import evaluate
from unbox.shapes import FACTORS

#: Features of a ranking that are kept.
RANKED = 64


def measure(heldout: Stage, trained: Stage) -> list[dict[str, Any]]:
    """Held-out figures of every SAE."""
    store = opened(heldout)
    rows = []
    for block, sae in tqdm(autoencoders(trained).items(), unit="block", leave=False):
        shape, figures = store[block].shape, evaluate(sae, store[block])
        rows.append(
            {
                "block": block,
                "positions": f"{shape[3]}\u00d7{shape[4]}",
                "width": sae.width,
                "explained": figures.explained_variance,
                "active": figures.l0,
                "dead": figures.dead_fraction,
                "deviation": sae.update_std,
            }
        )
    return rows


def find(plan: DemoPlan, collected: Stage, heldout: Stage, trained: Stage) -> dict[str, Any]:
    """What features tell: JSON for the report.

    For every block and factor, how well its best feature tells the values; for every target, the feature that
    tells it best, with examples, and all features ranked by how much of it they carry. Features are chosen on
    the training store and measured on the held-out one.
    """
    saes, store, other = autoencoders(trained), opened(collected), opened(heldout)
    scenes, others = scenes_of(store, range(min(plan.searched, len(store)))), scenes_of(other)
    codes = {b: pooled(sae, store[b], scenes) for b, sae in tqdm(saes.items(), unit="block", leave=False)}
    choice = {block: tables(of, scenes) for block, of in codes.items()}
    figure = {block: tables(pooled(sae, other[block], others), others) for block, sae in saes.items()}
    owners = {
        block: {
            factor: float(
                np.mean(
                    [measured(row[i]) for row, i in zip(figure[block][factor], best.argmax(1), strict=True)]
                )
            )
            for factor, best in choice[block].items()
        }
        for block in saes
    }
    tellers = [best_teller(choice, target) for target in plan.values]
    shown = top_examples(other, saes, tellers)
    for (factor, value), (block, i), example in zip(plan.values, tellers, shown, strict=True):
        score = figure[block][factor][FACTORS[factor].index(value), i]
        example |= {"factor": factor, "value": value, "auroc": measured(score)}
    deviation = {block: sae.update_std for block, sae in saes.items()}
    ranked = [ranking(codes, deviation, scenes, target)[:RANKED] for target in plan.values]
    return {"owners": owners, "features": shown, "ranked": ranked}


def measured(auroc: float) -> float:
    """An AUROC; chance where the held-out pictures show a value never or always, so that there is none."""
    return 0.5 if np.isnan(auroc) else float(auroc)


def best_teller(choice: dict[str, dict[str, np.ndarray]], target: tuple[str, str]) -> Latent:
    """The feature of all blocks that tells a factor value best."""
    factor, value = target
    rows = {block: table[factor][FACTORS[factor].index(value)] for block, table in choice.items()}
    block = max(rows, key=lambda block: rows[block].max())
    return block, int(rows[block].argmax())
