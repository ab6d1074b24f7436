"""Scores of features against their definitions, on small stores in memory."""

from types import SimpleNamespace

import numpy as np
import pytest

from unbox.errors import UnboxError
from unbox.ground_truth.factor_scores import (
    factor_labels,
    feature_scores,
    image_codes,
    position_iou,
    scenes_of,
    value_masks,
)
from unbox.shapes import masks, sample_scenes


class Identity:
    """An SAE whose latents are the channels, the two largest kept."""

    latents, width, block = 5, 5, "mid.0"

    def encode(self, x):
        values, indices = x.clamp(min=0).topk(2, -1)
        return SimpleNamespace(values=values, indices=indices)


class Rows:
    """Updates in memory, with the interface of a store's rows."""

    def __init__(self, updates):
        self.updates, self.shape = updates.astype(np.float32), updates.shape

    def read(self, i):
        return self.updates[i]


@pytest.fixture
def rows():
    return Rows(np.random.default_rng(1).standard_normal((7, 2, 1, 4, 4, 5)))


@pytest.mark.parametrize("pool", ["mean", "peak"])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_image_codes_pool_over_positions_and_steps(rows, pool, batch):
    kept = np.maximum(rows.updates, 0).reshape(7, -1, 5)
    kept = np.where(kept >= np.sort(kept, -1)[..., -2:-1], kept, 0)
    expected = kept.mean(1) if pool == "mean" else kept.max(1)
    assert np.allclose(image_codes(Identity(), rows, pool, batch=batch), expected, atol=1e-6)


def test_feature_scores_find_the_planted_feature(rows):
    label = np.array([True, False] * 3 + [True])
    rows.updates[label, ..., 3] += 4
    scores = feature_scores(image_codes(Identity(), rows), {("colour", "red"): label})
    assert scores.best(("colour", "red")) == [(3, 1.0)]


def test_position_iou_against_counting(rows):
    mask = np.random.default_rng(2).random((7, 8, 8)) < 0.5
    value = ("shape", "star")
    scores = position_iou(Identity(), rows, {value: mask}, batch=3)
    kept = np.maximum(rows.updates, 0)
    active = (kept > 0) & (kept >= np.sort(kept, -1)[..., -2:-1])
    placed = mask.reshape(7, 4, 2, 4, 2).mean((2, 4))[:, None, None]
    for feature in range(5):
        both = (active[..., feature] * placed).sum()
        union = active[..., feature].sum() + placed.sum() * 2 - both
        assert scores.of(value)[feature] == pytest.approx(both / union, rel=1e-5)


def test_labels_and_masks_say_what_the_scenes_say():
    scenes = sample_scenes(40, seed=3)
    labels, drawn = factor_labels(scenes), value_masks(scenes)
    for i, scene in enumerate(scenes):
        colours = {thing.colour for thing in scene.objects}
        assert {value for (factor, value), has in labels.items() if factor == "colour" and has[i]} == colours
        assert labels["light", scene.light][i]
        union = np.any([drawn["colour", colour][i] for colour in colours], axis=0)
        assert np.array_equal(union, masks(scene).any(0))


def test_a_store_without_scenes_is_refused():
    store = SimpleNamespace(samples=[SimpleNamespace(meta={})], __len__=lambda self: 1)
    with pytest.raises(UnboxError, match="no scene"):
        scenes_of(store, [0])
