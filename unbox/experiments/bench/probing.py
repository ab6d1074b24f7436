"""Meaning: which feature of each dictionary tells a factor value best, on images and on positions.

Features are chosen on one half of the held-out captions and scored on the other: the best of hundreds of
features on the same images would look good by luck alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from unbox.experiments.factors import (
    Value,
    factor_labels,
    feature_scores,
    image_codes,
    position_iou,
    value_masks,
)
from unbox.shapes import FACTORS, OBJECT_FACTORS, Scene, masks
from unbox.words import Mask

#: Least number of images with and without a value in either half.
LEAST = 5

VALUES: tuple[Value, ...] = tuple((factor, value) for factor, options in FACTORS.items() for value in options)


def probe(dictionary: Any, rows: Any, scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    """Per value: the best feature by AUROC, by mean and by peak over the image, and by mask IoU.

    Each is chosen on even images and scored on odd ones. Values that either half shows too rarely are left
    out.
    """
    halves = list(range(0, len(scenes), 2)), list(range(1, len(scenes), 2))
    labels = [factor_labels([scenes[i] for i in half]) for half in halves]
    enough = [v for v in VALUES if all(LEAST <= of[v].sum() <= len(of[v]) - LEAST for of in labels)]
    if not enough:
        return []
    found: dict[Value, dict[str, Any]] = {v: {"factor": v[0], "value": v[1], "auroc": 0.0} for v in enough}
    for pool in ("mean", "peak"):
        chosen, scored = (
            feature_scores(image_codes(dictionary, rows, pool, half), {v: of[v] for v in enough})
            for half, of in zip(halves, labels, strict=True)
        )
        for value in enough:
            feature, first = chosen.best(value)[0]
            if first > found[value].get("chosen_at", 0.0):
                held_out = float(scored.of(value)[feature])
                found[value] |= {"feature": feature, "pool": pool, "chosen_at": first, "auroc": held_out}
    there = [v for v in enough if v[0] in OBJECT_FACTORS]
    if not there:
        return list(found.values())
    drawn = [value_masks([scenes[i] for i in half]) for half in halves]
    chosen, scored = (
        position_iou(dictionary, rows, {v: of[v] for v in there}, half)
        for half, of in zip(halves, drawn, strict=True)
    )
    for value in there:
        feature, _ = chosen.best(value)[0]
        found[value] |= {"iou_feature": feature, "iou": float(scored.of(value)[feature])}
    return list(found.values())


def object_shares(scenes: Sequence[Scene], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (objects, positions) over the positions that each object covers, and its image (objects,)."""
    shares, owner = [], []
    for i, scene in enumerate(scenes):
        for drawn in masks(scene):
            placed = Mask.of(drawn)
            assert placed is not None
            cover = placed.on(height, width).ravel()
            shares.append(cover / cover.sum())
            owner.append(i)
    return np.stack(shares), np.array(owner)


class Pooled:
    """Mean codes and updates of a block by object and by image, for the contrasts of every value."""

    def __init__(self, held: Mapping[str, Any], rows: Any, scenes: Sequence[Scene]) -> None:
        _, steps, branches, height, width, depth = rows.shape
        self.scenes = scenes
        shares, self.owner = object_shares(scenes, height, width)
        objects: dict[str, list[np.ndarray]] = {name: [] for name in ("update", *held)}
        images: dict[str, list[np.ndarray]] = {name: [] for name in ("update", *held)}
        for i in range(len(scenes)):
            update = (
                np.asarray(rows.read(i), np.float32).reshape(steps * branches, height * width, depth).mean(0)
            )
            mine = shares[self.owner == i]
            objects["update"].append(mine @ update)
            images["update"].append(update.mean(0, keepdims=True))
            full = torch.from_numpy(np.asarray(rows.read(i), np.float32).reshape(-1, depth))
            for name, dictionary in held.items():
                codes = dictionary.encode(full).dense(len(dictionary.W_dec)).numpy()
                codes = codes.reshape(steps * branches, height * width, -1).mean(0)
                objects[name].append(mine @ codes)
                images[name].append(codes.mean(0, keepdims=True))
        self._objects = {name: np.concatenate(parts) for name, parts in objects.items()}
        self._images = {name: np.concatenate(parts) for name, parts in images.items()}

    def contrast(self, name: str, value: Value) -> np.ndarray:
        """Mean over rows with the value minus mean over rows without: (n,), or (d,) of "update"."""
        factor, wanted = value
        if factor in OBJECT_FACTORS:
            held = [getattr(thing, factor) for scene in self.scenes for thing in scene.objects]
            rows = self._objects[name]
        else:
            held = [getattr(scene, factor) for scene in self.scenes]
            rows = self._images[name]
        chosen = np.array([v == wanted for v in held])
        return rows[chosen].mean(0) - rows[~chosen].mean(0)

    def separation(self, value: Value, deviation: float) -> float:
        """How far the value moves this block's update, in update deviations: where to edit."""
        return float(np.linalg.norm(self.contrast("update", value))) / deviation
