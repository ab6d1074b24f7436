"""Is a difference that was planted found? Where the features that tell a changed value stand in a ranking.

The truth is the Shapes world's: a feature tells a value as well as its activity in the first system's images
orders those whose captions say the value before the others (AUROC). The telling features are chosen on images
that the ranking is not of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from activation_store import Rows, Store
from unbox.errors import UnboxError
from unbox.experiments.diff.activity import image_activity, image_groups_of
from unbox.ground_truth.factor_scores import Value
from unbox.sae import SAE
from unbox.shapes import FACTORS, OBJECT_FACTORS, Scene
from unbox.statistics import Interval, auroc, bootstrap


@dataclass(frozen=True)
class PlantedRanks:
    """The ranks of the features that tell one value best."""

    value: Value
    features: tuple[int, ...]
    """The best telling, best first."""
    auroc: tuple[float, ...]
    ranks: tuple[int, ...]
    """Of each in the ranking by change, from 1."""
    split_ranks: tuple[tuple[int, ...], ...]
    """Of each in random splits of the first system's images."""
    of: int
    """Features that are ranked."""

    @property
    def first(self) -> int:
        """The rank of the one that is ranked first."""
        return min(self.ranks)

    @property
    def by_chance(self) -> float:
        """How often that rank or a better one is reached by as many features drawn at random."""
        return 1 - comb(self.of - self.first, len(self.features)) / comb(self.of, len(self.features))

    @property
    def first_in_splits(self) -> list[int]:
        """The same of each random split."""
        return [min(ranks) for ranks in zip(*self.split_ranks, strict=True)]


@dataclass(frozen=True)
class SaidChange:
    """What became of the feature that tells a value best, in images whose captions say the value."""

    value: Value
    feature: int
    auroc: float
    """How well it tells the value, on other images."""
    images: int
    kept: Interval
    """Its activity in the second system, in units of its mean activity in the first: 1 is no change."""


def said_changes(
    before: np.ndarray,
    after: np.ndarray,
    said: Mapping[Value, np.ndarray],
    scores: Mapping[Value, np.ndarray],
    telling: float = 0.95,
    images: int = 5,
) -> list[SaidChange]:
    """The features that tell a value with an AUROC of at least `telling`, what is kept least of first.

    before, after: activity (images, n) in two systems; said: value -> (images,); scores: value -> AUROC of
    each feature (n,), of other images. The mean over all images is led by what any training moves; a
    difference in what a caption means is in the images that say it. Values that fewer than `images` say are
    left out.
    """
    found = []
    for value, where in said.items():
        best = int(np.argmax(scores[value]))
        usual = float(before[where, best].mean()) if where.sum() >= images else 0.0
        if scores[value][best] >= telling and usual > 0:
            kept = bootstrap(after[where, best] / usual)
            found.append(SaidChange(value, best, float(scores[value][best]), int(where.sum()), kept))
    return sorted(found, key=lambda each: each.kept.mean)


def said_values(store: Store, images: Sequence[int]) -> dict[Value, np.ndarray]:
    """Value -> whether the caption of each image says it of an object, or of the scene: bool (images,).

    Raises UnboxError for prompts that are not of the Shapes world."""
    found = {(factor, v): np.zeros(len(images), bool) for factor, vs in FACTORS.items() for v in vs}
    for at, i in enumerate(images):
        meta = store.samples[i].meta
        if "scene" not in meta or "mentioned" not in meta:
            raise UnboxError(f"image {i} of {store.path} has no scene; its prompts are to be of shapes")
        scene, mentioned = Scene.from_json(meta["scene"]), set(meta["mentioned"])
        for slot in range(len(scene.objects)):
            for factor, value in scene.factors(slot).items():
                name = f"{slot}.{factor}" if factor in OBJECT_FACTORS else factor
                if name in mentioned:
                    found[factor, value][at] = True
    return found


def pooled_activity(sae: SAE, rows: Rows, images: Sequence[int]) -> np.ndarray:
    """(images, n): each feature's mean over steps and places of each image."""
    parts = [
        image_activity(sae, updates["one"])[0].mean(1)
        for _, updates in image_groups_of({"one": rows}, images)
    ]
    return np.concatenate(parts)


def telling_scores(activity: np.ndarray, said: Mapping[Value, np.ndarray]) -> dict[Value, np.ndarray]:
    """Value -> AUROC of each feature (n,), from activity (images, n); NaN is .5: no such images."""
    table = auroc(activity, np.stack(list(said.values()), 1))
    return {value: np.nan_to_num(row, nan=0.5) for value, row in zip(said, table, strict=True)}


def planted_ranks(
    value: Value, scores: np.ndarray, ranks: np.ndarray, split_ranks: np.ndarray, count: int = 5
) -> PlantedRanks:
    """Where the `count` features that tell a value best stand: scores (n,), ranks (n,) from 1, split_ranks
    (splits, n)."""
    best = np.argsort(-scores, kind="stable")[:count]
    return PlantedRanks(
        value=value,
        features=tuple(best.tolist()),
        auroc=tuple(scores[best].tolist()),
        ranks=tuple(ranks[best].tolist()),
        split_ranks=tuple(tuple(row) for row in split_ranks[:, best].T.tolist()),
        of=len(scores),
    )


def best_told(scores: Mapping[Value, np.ndarray], features: Sequence[int]) -> list[tuple[Value, float]]:
    """The value that each feature tells best, and its AUROC."""
    values, table = list(scores), np.stack(list(scores.values()))
    return [(values[int(table[:, i].argmax())], float(table[:, i].max())) for i in features]
