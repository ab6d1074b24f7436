"""Meaning: which feature of each dictionary tells a factor value best, on images and on positions.

Features are chosen on one half of the held-out captions and scored on the other: the best of hundreds of
features on the same images would look good by luck alone.
"""

from collections.abc import Mapping, Sequence

from unbox.edits.terms import TensorDictionary
from unbox.ground_truth.bench.bench_rows import BenchRow
from unbox.ground_truth.factor_scores import (
    UpdateRows,
    Value,
    factor_labels,
    feature_scores,
    image_codes,
    position_iou,
    value_masks,
)
from unbox.ground_truth.setting_rules import VALUES
from unbox.shapes import OBJECT_FACTORS, Scene

#: Least number of images with and without a value in either half.
LEAST = 5


def probe(dictionary: TensorDictionary, rows: UpdateRows, scenes: Sequence[Scene]) -> list[BenchRow]:
    """Per value: the best feature by AUROC, by mean and by peak over the image, and by mask IoU.

    Each is chosen on even images and scored on odd ones. Values that either half shows too rarely are left
    out.
    """
    found = probe_images(dictionary, rows, scenes)
    local = [v for v in found if v[0] in OBJECT_FACTORS]
    if not local:
        return list(found.values())
    halves = _halves(scenes)
    drawn = [value_masks([scenes[i] for i in half]) for half in halves]
    chosen, scored = (
        position_iou(dictionary, rows, {v: of[v] for v in local}, half)
        for half, of in zip(halves, drawn, strict=True)
    )
    for value in local:
        feature, _ = chosen.best(value)[0]
        found[value] |= {"iou_feature": feature, "iou": float(scored.of(value)[feature])}
    return list(found.values())


def probe_images(
    dictionary: TensorDictionary, rows: UpdateRows, scenes: Sequence[Scene]
) -> dict[Value, BenchRow]:
    """The part of `probe` that takes images as wholes: the best feature of each value by AUROC."""
    halves = _halves(scenes)
    labels = [factor_labels([scenes[i] for i in half]) for half in halves]
    enough = [v for v in VALUES if all(LEAST <= of[v].sum() <= len(of[v]) - LEAST for of in labels)]
    if not enough:
        return {}
    found: dict[Value, BenchRow] = {v: {"factor": v[0], "value": v[1], "auroc": 0.0} for v in enough}
    for pool in ("mean", "peak"):
        chosen, scored = (
            feature_scores(image_codes(dictionary, rows, pool, half), {v: of[v] for v in enough})
            for half, of in zip(halves, labels, strict=True)
        )
        for value in enough:
            feature, first = chosen.best(value)[0]
            if first > found[value].get("chosen_at", 0.0):
                score = float(scored.of(value)[feature])
                found[value] |= {"feature": feature, "pool": pool, "chosen_at": first, "auroc": score}
    return found


def probe_saes(
    saes: Mapping[str, TensorDictionary], rows: Mapping[str, UpdateRows], scenes: Sequence[Scene]
) -> list[BenchRow]:
    """`probe_images` of every block's SAE: rows as `bench shapes` has them in `meaning`."""
    found: list[BenchRow] = []
    for block, sae in saes.items():
        of_block = probe_images(sae, rows[block], scenes).values()
        found += [{"block": block, "method": "sae", **row} for row in of_block]
    return found


def _halves(scenes: Sequence[Scene]) -> tuple[list[int], list[int]]:
    """Images by which features are chosen, and those on which they are scored."""
    return list(range(0, len(scenes), 2)), list(range(1, len(scenes), 2))
