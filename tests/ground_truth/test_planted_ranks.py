"""Ranks of features that tell a value, where both are known."""

import numpy as np
import pytest

from tests.activation_store import fakes
from unbox.errors import UnboxError
from unbox.ground_truth.planted_ranks import (
    best_told,
    planted_ranks,
    said_changes,
    said_values,
    telling_scores,
)

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


def test_what_is_kept_is_of_the_images_that_say_the_value():
    """Feature 0 tells red and is lost where red is said, feature 1 tells blue and is halved where it is not;
    feature 2 changes most over all images."""
    red, blue = np.arange(20) < 6, np.arange(20) >= 12
    before = np.stack([np.where(red, 2.0, 0.1), np.where(blue, 4.0, 0.2), np.full(20, 5.0)], 1)
    after = before * [1, 0.5, 3]
    after[red, 0], after[blue, 1] = [0.0, 0.4, 0.0, 0.4, 0.0, 0.4], 4.0
    said = {BLUE: blue, RED: red, ("colour", "cyan"): np.arange(20) < 2}
    scores = telling_scores(before, said)
    found = said_changes(before, after, said, scores)
    assert [(each.value, each.feature, each.images) for each in found] == [(RED, 0, 6), (BLUE, 1, 8)]
    assert found[0].kept.mean == pytest.approx(0.1)
    assert 0 <= found[0].kept.low < 0.1 < found[0].kept.high <= 0.2
    assert found[1].kept == pytest.approx((1, 1, 1))


def test_prompts_of_another_world_are_refused(tmp_path):
    with pytest.raises(UnboxError, match=r"image 0 of .* has no scene; its prompts are to be of shapes"):
        said_values(fakes.make(tmp_path / "acts", 3), [0])
