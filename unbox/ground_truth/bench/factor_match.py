"""MCC: how well features and known factors can be matched one to one.

The mean correlation coefficient of nonlinear ICA (Hyvarinen & Morioka 2016): every factor value is given a
feature of its own so that the sum of |Pearson correlation| between the feature's mean code and the value's
presence is largest (the Hungarian method). Matched on one half of the captions, scored on the other.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from scipy.optimize import linear_sum_assignment

from unbox.edits.terms import TensorDictionary
from unbox.ground_truth.factor_scores import UpdateRows, factor_labels, image_codes
from unbox.ground_truth.setting_rules import VALUES
from unbox.shapes import Scene


class Candidates(TypedDict):
    """Of a value in a block: as many features as there are values, which is all that a match can take."""

    factor: str
    value: str
    features: list[int]
    chosen: list[float]
    """|correlation| on the half of the captions by which features are matched."""
    scored: list[float]
    """On the other half."""


def correlations(codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(values, features) |Pearson correlation| of codes (images, features) with labels (images, values); 0
    for what never varies."""
    x, y = codes - codes.mean(0), labels - labels.mean(0)
    x, y = (z / np.maximum(np.linalg.norm(z, axis=0), 1e-12) for z in (x, y))
    found: np.ndarray = np.abs(y.T @ x)
    return found


def match_candidates(
    dictionary: TensorDictionary, rows: UpdateRows, scenes: Sequence[Scene]
) -> list[Candidates]:
    """Of every value that both halves show, and do not always show."""
    halves = list(range(0, len(scenes), 2)), list(range(1, len(scenes), 2))
    labels = [factor_labels([scenes[i] for i in half]) for half in halves]
    values = [v for v in VALUES if all(0 < of[v].sum() < len(of[v]) for of in labels)]
    if not values:
        return []
    first, second = (
        correlations(image_codes(dictionary, rows, "mean", half), np.stack([of[v] for v in values], 1))
        for half, of in zip(halves, labels, strict=True)
    )
    found = []
    for row, value in enumerate(values):
        best = np.argsort(-first[row], kind="stable")[: len(values)]
        found.append(
            Candidates(
                factor=value[0],
                value=value[1],
                features=best.tolist(),
                chosen=first[row, best].tolist(),
                scored=second[row, best].tolist(),
            )
        )
    return found


def match_score(blocks: Sequence[Sequence[Candidates]]) -> float:
    """MCC of the features of one or several blocks together; NaN without a value."""
    values = list(dict.fromkeys((c["factor"], c["value"]) for block in blocks for c in block))
    places = {
        key: place
        for place, key in enumerate(
            dict.fromkeys((b, f) for b, block in enumerate(blocks) for c in block for f in c["features"])
        )
    }
    if not values:
        return float("nan")
    chosen, scored = (np.zeros((len(values), max(len(places), len(values)))) for _ in range(2))
    for b, block in enumerate(blocks):
        for c in block:
            row = values.index((c["factor"], c["value"]))
            columns = [places[b, f] for f in c["features"]]
            chosen[row, columns], scored[row, columns] = c["chosen"], c["scored"]
    return float(scored[linear_sum_assignment(chosen, maximize=True)].mean())
