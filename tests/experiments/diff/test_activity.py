"""Changes of activity against scipy's tests, brute force, and the truth of planted ones."""

import numpy as np
import pytest
import scipy.stats

from tests.experiments.diff.planted_systems import channel_sae, codes_of, system_rows
from unbox.errors import UnboxError
from unbox.experiments.diff.activity import (
    PairedActivity,
    SplitActivity,
    image_activity,
    signs,
)


def pair(images=40, features=9, moved=0.0, seed=0):
    """Activity of two systems (images, features), of which feature 3 is `moved`."""
    rng = np.random.default_rng(seed)
    scene = rng.gamma(2, 1, (images, features)) * (rng.random((images, features)) < 0.7)
    both = [scene + rng.normal(0, 0.2, scene.shape) for _ in range(2)]
    both[1][:, 3] += moved
    return both


def summed(first, other, flips=500, cuts=(), seed=0):
    pairs = PairedActivity(first.shape[1], flips, seed)
    for some in np.split(np.arange(len(first)), cuts):
        pairs.add(some.tolist(), first[some], other[some])
    return pairs


def test_activity_is_the_mean_over_places_of_the_codes():
    rows = system_rows(5, 3, {}, own=1)
    values, active = image_activity(channel_sae(), rows)
    codes = codes_of(rows)
    assert np.allclose(values, codes.mean((2, 3, 4)), atol=1e-6)
    assert np.allclose(active, (codes > 0).mean((2, 3, 4)), atol=1e-7)


def test_t_and_interval_are_the_paired_test_s():
    first, other = pair(moved=0.1)
    found = summed(first, other).changes()
    truth = scipy.stats.ttest_rel(other, first)
    interval = truth.confidence_interval(0.95)
    assert np.allclose(found.t, truth.statistic)
    assert np.allclose((found.low, found.high), (interval.low, interval.high))
    assert np.allclose(found.first, first.mean(0))
    assert np.allclose(found.change, (other - first).mean(0))
    p = np.sort(truth.pvalue)
    by_hand = np.minimum.accumulate((p * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1]
    assert np.allclose(np.sort(found.q), np.minimum(by_hand, 1))


def test_the_family_wise_p_is_that_of_exchanged_systems():
    first, other = pair(images=12, moved=0.1)
    found = summed(first, other, flips=300, seed=5).changes()
    largest = []
    for flip in signs(range(12), 300, 5).T[:12].T:
        d = flip[:, None] * (other - first)
        largest.append(np.abs(d.mean(0) / (d.std(0, ddof=1) / np.sqrt(12))).max())
    truth = [(1 + sum(x >= abs(t) - 1e-9 for x in largest)) / 301 for t in found.t]
    assert np.allclose(found.p_family, truth)


def test_systems_that_differ_by_chance_alone_are_called_different_in_a_twentieth_of_runs():
    """Features that go together would be counted as many by Bonferroni; exchanged systems know them."""
    called = 0
    for seed in range(300):
        first, other = pair(images=20, features=8, seed=seed)
        other[:, 4:], first[:, 4:] = other[:, :1], first[:, :1]
        called += summed(first, other, flips=199, seed=seed).changes().p_family.min() <= 0.05
    assert scipy.stats.binom.ppf(0.001, 300, 0.05) <= called <= scipy.stats.binom.ppf(0.999, 300, 0.05)


def test_images_may_come_in_any_parts_and_the_largest_changes_are_kept():
    first, other = pair(images=30, moved=0.2)
    one, many = (summed(first, other, cuts=cuts) for cuts in ((), (1, 7, 20)))
    for name in ("t", "low", "p_family", "q", "order"):
        assert np.allclose(getattr(one.changes(), name), getattr(many.changes(), name)), name
    truth = np.argsort(-np.abs(other - first), 0, kind="stable")[:4].T
    assert np.array_equal(one.examples, truth)
    assert np.array_equal(many.examples, truth)


def test_a_planted_change_is_the_first_and_its_rank_in_a_split_is_any():
    first, other = pair(images=60, features=200, moved=0.5)
    changes = summed(first, other).changes()
    assert changes.order[0] == 3
    assert changes.ranks[3] == 1
    assert changes.p_family[3] == 1 / 501
    assert (np.delete(changes.p_family, 3) > 0.01).all()
    split = SplitActivity(200, 50)
    split.add(range(60), first)
    ranks = split.changes().ranks[:, 3]
    assert 50 < ranks.mean() < 150  # of 200: 100.5 by chance, deviation 8


def test_a_random_split_is_welch_s_test_of_its_halves():
    first, _ = pair(images=25)
    split = SplitActivity(9, 6, seed=3)
    split.add(range(10), first[:10])
    split.add(range(10, 25), first[10:])
    found = split.changes()
    for drawn, t in zip(signs(range(25), 6, 4), found.t, strict=True):
        truth = scipy.stats.ttest_ind(first[drawn > 0], first[drawn < 0], equal_var=False)
        assert np.allclose(t, truth.statistic)


def test_systems_that_are_one_differ_in_nothing():
    first, _ = pair()
    changes = summed(first, first.copy()).changes()
    assert not changes.change.any()
    assert not changes.t.any()
    assert (changes.q == 1).all()
    assert (changes.p_family == 1).all()


def test_one_image_has_no_interval():
    first, other = pair(images=1)
    with pytest.raises(UnboxError, match="1 images were compared: an interval takes two at least"):
        summed(first, other).changes()


def test_memory_does_not_grow_with_the_images():
    sizes = []
    for images in (20, 2000):
        first, other = pair(images=images)
        pairs = summed(first, other, flips=50, cuts=range(20, images, 20))
        sizes.append(sum(each.nbytes for each in vars(pairs).values() if isinstance(each, np.ndarray)))
    assert sizes[0] == sizes[1]
