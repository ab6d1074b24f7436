"""How well features tell factor values apart: AUROC over images, IoU over positions.

Codes stay sparse; the largest array made is (images, latents).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from einops import rearrange, reduce

from activation_store import Store
from unbox.edits.terms import TensorDictionary
from unbox.errors import UnboxError
from unbox.mask import Mask
from unbox.sae.codes import Codes
from unbox.shapes import FACTORS, OBJECT_FACTORS, Scene, masks
from unbox.statistics import auroc

#: A factor and one of its values, e.g. ("colour", "red").
Value = tuple[str, str]


class UpdateRows(Protocol):
    """A block's rows, image by image: those of a store, or an array's."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(images, steps, branches, y, x, d)"""
        ...

    def read(self, i: int) -> np.ndarray:
        """(step, branch, y, x, d) of an image."""
        ...


def scenes_of(store: Store, images: Sequence[int] | None = None) -> list[Scene]:
    """The scene behind each image of a store, from its prompts' meta. Raises UnboxError for other prompts."""
    indices = range(len(store)) if images is None else images
    metas = [store.samples[i].meta for i in indices]
    missing = [i for i, meta in zip(indices, metas, strict=True) if "scene" not in meta]
    if missing:
        raise UnboxError(f"image {missing[0]} of the store has no scene; collect with `--prompts shapes`")
    return [Scene.from_json(meta["scene"]) for meta in metas]


def factor_labels(scenes: Sequence[Scene]) -> dict[Value, np.ndarray]:
    """For each value of each factor, whether an image has it (on any of its objects): bool (images,)."""
    shown = [{(f, v) for slot in range(len(s.objects)) for f, v in s.factors(slot).items()} for s in scenes]
    values = [(factor, value) for factor, options in FACTORS.items() for value in options]
    return {value: np.array([value in of for of in shown], bool) for value in values}


def blocks_of(
    sae: TensorDictionary, rows: UpdateRows, images: Sequence[int] | None = None, batch: int = 64
) -> Iterator[Codes]:
    """Codes of a few images at a time: values and indices (images, positions over steps and branches, k)."""
    indices = list(range(rows.shape[0]) if images is None else images)
    for i in range(0, len(indices), batch):
        updates = np.stack([rows.read(j) for j in indices[i : i + batch]])
        yield sae.encode(rearrange(torch.from_numpy(updates), "n step branch y x d -> n (step branch y x) d"))


def image_codes(
    sae: TensorDictionary,
    rows: UpdateRows,
    pool: str = "mean",
    images: Sequence[int] | None = None,
    batch: int = 64,
) -> np.ndarray:
    """Codes of each image pooled over its positions, steps and branches: float32 (images, latents).

    `rows`: a store's rows of the SAE's block; `rows.filter(steps=..., branches=...)` chooses among them.
    `pool` is "mean" (how much in all) or "peak" (how much at most).
    """
    if pool not in ("mean", "peak"):
        raise UnboxError(f"no pooling '{pool}'; there are mean, peak")
    parts = []
    for codes in blocks_of(sae, rows, images, batch):
        values, indices = codes.values.float().flatten(1), codes.indices.long().flatten(1)
        pooled = values.new_zeros(len(values), sae.latents)
        if pool == "mean":
            pooled.scatter_add_(1, indices, values / codes.values.shape[1])
        else:
            pooled.scatter_reduce_(1, indices, values, "amax")
        parts.append(pooled.numpy())
    return np.concatenate(parts) if parts else np.zeros((0, sae.latents), np.float32)


class Scores(NamedTuple):
    """AUROC of every feature for every value, `table` (values, features), and the values of its rows."""

    values: tuple[Value, ...]
    table: np.ndarray

    def of(self, value: Value) -> np.ndarray:
        """(features,) for one value."""
        return self.table[self.values.index(value)]

    def best(self, value: Value, count: int = 1) -> list[tuple[int, float]]:
        """The `count` best features for a value, with their AUROC, best first."""
        scores = np.nan_to_num(self.of(value), nan=0.0)
        order = np.argsort(-scores, kind="stable")[:count]
        return [(int(i), float(scores[i])) for i in order]


def feature_scores(codes: np.ndarray, labels: Mapping[Value, np.ndarray]) -> Scores:
    """AUROC of every feature for every value, from pooled codes (images, latents) and labels (images,)."""
    values = tuple(labels)
    return Scores(values, auroc(codes, np.stack([labels[value] for value in values], 1)))


def position_iou(
    sae: TensorDictionary,
    rows: UpdateRows,
    drawn: Mapping[Value, np.ndarray],
    images: Sequence[int] | None = None,
    batch: int = 64,
) -> Scores:
    """IoU of where a feature is active with where a value is drawn, over all positions of the images.

    `drawn[value]` bool or float (images, height, width), of any resolution (averaged over each position's
    area); zero for images without the value. The union counts a position's larger share, so soft masks are
    treated as areas: |A and M| = sum of M where active, |A or M| = |A| + |M| - |A and M|.
    """
    _, steps, branches, height, width, _ = rows.shape
    placed = np.stack([on_grid(m, height, width) for m in drawn.values()])  # (values, images, positions)
    both = torch.zeros(len(drawn), sae.latents, dtype=torch.float64)
    active = torch.zeros(sae.latents, dtype=torch.float64)
    first, views = 0, steps * branches
    for codes in blocks_of(sae, rows, images, batch):
        for values, indices in zip(codes.values, codes.indices.long(), strict=True):  # an image at a time
            fired = torch.zeros(len(values), sae.latents).scatter_(1, indices, (values > 0).float())
            active += fired.sum(0)
            times = reduce(fired, "(view place) latent -> place latent", "sum", view=views)
            both += torch.from_numpy(placed[:, first]) @ times
            first += 1
    area = placed.sum((1, 2))[:, None] * steps * branches
    with np.errstate(invalid="ignore", divide="ignore"):
        return Scores(tuple(drawn), (both / (active + torch.from_numpy(area) - both)).numpy())


def on_grid(drawn: np.ndarray, height: int, width: int) -> np.ndarray:
    """(images, y, x) -> (images, positions) averaged over each position's area."""
    return rearrange(Mask.of(np.asarray(drawn, np.float32)).on(height, width), "n y x -> n (y x)")


def value_masks(scenes: Sequence[Scene]) -> dict[Value, np.ndarray]:
    """For each value of an object's factor, where objects that have it are drawn: bool (images, 64, 64)."""
    drawn = [masks(scene) for scene in scenes]
    result = {}
    for factor in OBJECT_FACTORS:
        for value in FACTORS[factor]:
            having = [[getattr(thing, factor) == value for thing in scene.objects] for scene in scenes]
            result[factor, value] = np.stack([m[h].any(0) for m, h in zip(drawn, having, strict=True)])
    return result
