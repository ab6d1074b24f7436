"""Learned baselines in the benchmark: shifts of a block's update towards a value, trained on the same
captions as the SAE's mean maps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from einops import rearrange

from unbox.edit import Direction, Edit, Edits
from unbox.edits.learned import classifier_shift, linear_probe, low_rank_shift, mean_difference
from unbox.ground_truth.bench.scene_pairs import ScenePair, changing, recorded
from unbox.ground_truth.effects import ModelUnderTest
from unbox.ground_truth.factor_scores import UpdateRows, Value
from unbox.mask import Mask
from unbox.shapes import FACTORS, Scene, caption
from unbox.shapes.where import edit_mask, read_mask

#: The learned methods, as the settings name them.
LEARNED = ("mean-difference", "linear-probe", "loreft", "k-steering")

#: Those that are a direction.
DIRECTIONS = {"mean-difference": mean_difference, "linear-probe": linear_probe}

#: Places taken of an image, vectors in all, and pairs of runs that LoReFT learns from.
PLACES, VECTORS, PAIRS = 16, 20_000, 32


@dataclass(frozen=True, eq=False)
class LearnedChange:
    """A learned shift of one block towards a value, where the value is edited."""

    name: str
    block: str
    value: Value
    at: Callable[[float], Edit]
    """From a strength to the edit everywhere."""
    features: tuple[int, ...] = ()

    def edits(self, scene: Scene, strength: float) -> Edits:
        """The edit of an image of the scene; none where it has the value already."""
        factor, wanted = self.value
        if scene.factors()[factor] == wanted:
            return Edits()
        edit, where = self.at(strength), edit_mask(factor, scene)
        return Edits.of(edit if where is None else replace(edit, where=where))


class LearnedChanges:
    """Makes them when they are first asked for, and keeps them."""

    def __init__(
        self,
        subject: ModelUnderTest,
        rows: Callable[[str], UpdateRows],
        scenes: Sequence[Scene],
        blocks: Sequence[str],
        seed: int,
    ) -> None:
        """`rows`: of a block, those of `scenes` in order."""
        self.subject, self.rows, self.scenes, self.blocks, self.seed = subject, rows, scenes, blocks, seed
        self.change = cache(self._change)
        self._vectors, self._paired = cache(self._labelled), cache(self._pairs)

    def _change(self, method: str, block: str, value: Value) -> LearnedChange:
        factor, wanted = value
        if method in DIRECTIONS:
            add = self._direction(method, block, value).add
            return LearnedChange(f"{block}, {method}", block, value, add)
        if method == "loreft":
            shift = low_rank_shift(block, *self._paired(value)[block])
        else:
            vectors, labels = self._vectors(block, factor)
            shift = classifier_shift(block, vectors, labels, FACTORS[factor].index(wanted), self.seed)
        return LearnedChange(f"{block}, {method}", block, value, shift.edit, tuple(range(shift.latents)))

    def erasing(self, method: str, block: str, value: Value) -> Callable[[float], Edit]:
        """From a strength to the edit that takes a value out of a block, everywhere: along the negative
        direction; by LoReFT's map from the runs with the value to those without; by K-steering away from the
        value, to any other."""
        factor, wanted = value
        if method in DIRECTIONS:
            return lambda strength: self._direction(method, block, value).add(-strength)
        if method == "loreft":
            without, having = self._paired(value)[block]
            return low_rank_shift(block, having, without).edit
        vectors, labels = self._vectors(block, factor)
        has = (labels == FACTORS[factor].index(wanted)).astype(np.int64)
        return classifier_shift(block, vectors, has, 0, self.seed).edit

    def _direction(self, method: str, block: str, value: Value) -> Direction:
        """Of `mean-difference` and `linear-probe`."""
        vectors, labels = self._vectors(block, value[0])
        has = labels == FACTORS[value[0]].index(value[1])
        found = DIRECTIONS[method](vectors[has], vectors[~has])
        return Direction(block, tuple(found.tolist()))

    def showing(self, block: str, value: Value, count: int) -> np.ndarray:
        """(m, d) at most `count` recorded vectors of places that show a value, the same in every call."""
        vectors, labels = self._vectors(block, value[0])
        found: np.ndarray = vectors[labels == FACTORS[value[0]].index(value[1])]
        return found[np.random.default_rng(self.seed).permutation(len(found))[:count]]

    def _labelled(self, block: str, factor: str) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (m, d) of places where a factor is read, of pictures of one object, and its value there."""
        rows, rng = self.rows(block), np.random.default_rng(self.seed)
        parts: list[np.ndarray] = []
        labels: list[int] = []
        for i, scene in enumerate(self.scenes):
            if len(scene.objects) == 1 and len(parts) * PLACES < VECTORS:
                found = _places(rows.read(i), read_mask(factor, scene), rng)
                parts.append(found)
                labels += [FACTORS[factor].index(scene.factors()[factor])] * len(found)
        return np.concatenate(parts), np.array(labels)

    def _pairs(self, value: Value) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
        """Block -> vectors before and after: of runs of captions, and of the same with the value."""
        factor, wanted = value
        lacking = [s for s in self.scenes if len(s.objects) == 1 and s.factors()[factor] != wanted][:PAIRS]
        pairs = []
        for number, scene in enumerate(lacking):
            edited, seed = scene.with_factor(factor, wanted), self.seed * 1_000_003 + 700_000 + number
            before, after = (
                caption(each, np.random.default_rng(seed), "heldout", full=True)[0]
                for each in (scene, edited)
            )
            pairs.append(ScenePair(changing(factor), scene, edited, before, after, seed))
        found: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {b: ([], []) for b in self.blocks}
        for pair, updates in zip(pairs, recorded(self.subject, pairs, list(self.blocks)), strict=True):
            where = edit_mask(factor, pair.original)
            for block, (first, then) in found.items():
                for several, runs in ((first, updates.original), (then, updates.donor)):
                    rng = np.random.default_rng([self.seed, len(several)])  # the same places of both
                    several.append(_places(runs[block][:, None], where, rng))
        return {b: (np.concatenate(first), np.concatenate(then)) for b, (first, then) in found.items()}


def _places(update: np.ndarray, where: Mask | None, rng: np.random.Generator) -> np.ndarray:
    """(m, d) of an image's update (step, branch, y, x, d) at most `PLACES` vectors where a mask is."""
    flat = rearrange(update, "step branch y x d -> (y x) (step branch) d")
    shares = np.ones(len(flat)) if where is None else where.on(*update.shape[2:4]).ravel()
    inside = np.flatnonzero(shares > min(0.5, 0.9 * shares.max()))
    chosen = rng.permutation(inside)[:PLACES]
    found: np.ndarray = flat[chosen].reshape(-1, flat.shape[-1])[:PLACES].astype(np.float32)
    return found
