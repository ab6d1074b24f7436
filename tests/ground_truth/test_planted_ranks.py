"""Ranks of features that tell a value, where both are known."""

import numpy as np
import pytest

from tests.activation_store import fakes
from unbox.errors import UnboxError
from unbox.ground_truth.planted_ranks import best_told, planted_ranks, said_values, telling_scores

RED, BLUE = ("colour", "red"), ("colour", "blue")


def test_the_features_that_tell_a_value_are_ranked():
    said = np.random.default_rng(0).random(200) < 0.3
    activity = np.random.default_rng(1).normal(size=(200, 40))
    activity[:, 7] += 4 * said
    activity[:, 9] += 2 * said
    activity[:, 11] -= 4 * said
    scores = telling_scores(activity, {RED: said, BLUE: ~said, ("colour", "cyan"): np.zeros(200, bool)})
    assert scores[RED][7] == pytest.approx((activity[said, 7][:, None] > activity[~said, 7]).mean())
    assert (scores["colour", "cyan"] == 0.5).all()
    ranks = np.arange(40, 0, -1)
    splits = np.stack([np.arange(1, 41), np.roll(np.arange(1, 41), 1)])
    found = planted_ranks(RED, scores[RED], ranks, splits, count=2)
    assert found.features == (7, 9)
    assert found.ranks == (33, 31)
    assert found.first == 31
    assert found.split_ranks == ((8, 7), (10, 9))
    assert found.first_in_splits == [8, 7]
    assert [value for value, _ in best_told(scores, [7, 11])] == [RED, BLUE]


def test_chance_is_that_of_features_drawn_at_random():
    scores = np.zeros(30)
    scores[[4, 8, 15]] = 1
    ranks = np.full(30, 29)
    ranks[8] = 6
    found = planted_ranks(RED, scores, ranks, ranks[None], count=3)
    rng = np.random.default_rng(0)
    drawn = [rng.permutation(30)[:3].min() + 1 <= 6 for _ in range(20_000)]
    assert found.by_chance == pytest.approx(np.mean(drawn), abs=0.01)


def test_prompts_of_another_world_are_refused(tmp_path):
    with pytest.raises(UnboxError, match=r"image 0 of .* has no scene; its prompts are to be of shapes"):
        said_values(fakes.make(tmp_path / "acts", 3), [0])
