"""Intervals and areas against their definitions and closed forms."""

import itertools

import numpy as np
import pytest

from unbox.statistics import LEVEL, StreamingBootstrap, auroc, bootstrap, bootstrap_of_sums, wilson

Z = 1.959964  # of 95 %


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = [
        low <= 0.3 <= high
        for _, low, high in (bootstrap(rng.random(60) < 0.3, draws=400, seed=i) for i in range(200))
    ]
    assert 0.88 <= np.mean(inside) <= 0.99


def test_bootstrap_of_units_with_several_seeds_is_of_their_means():
    values = np.random.default_rng(0).random((20, 3))
    assert bootstrap(values) == bootstrap(values.mean(1))
    assert np.isnan(bootstrap(np.array([np.nan]))).all()


def test_bootstrap_of_many_units_is_the_normal_interval():
    """The percentile interval of a mean of n units tends to mean -+ z sd / sqrt(n)."""
    values = np.random.default_rng(1).standard_normal(2000)
    found, half = bootstrap(values, draws=4000), Z * values.std() / np.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx([found.mean - half, found.mean + half], abs=0.08 * half)
    narrow = bootstrap(values, level=0.5, draws=4000)
    assert narrow.high - narrow.low == pytest.approx(0.67449 / Z * 2 * half, rel=0.1)
    assert bootstrap(values) == bootstrap(values, LEVEL)


def test_bootstrap_of_few_or_equal_units():
    assert bootstrap(np.array([2.0])) == (2, 2, 2)
    assert bootstrap(np.full(7, 2.0)) == (2, 2, 2)
    assert np.isnan(bootstrap(np.array([]))).all()
    assert bootstrap(np.array([[np.nan, np.nan], [1, np.nan], [3, 5]])).mean == 2.5
    low, high = bootstrap(np.array([True, False]))[1:]
    assert (low, high) == (0, 1)


def test_bootstrap_of_a_ratio_of_sums_resamples_whole_units():
    """Of two units a resample has the first twice, each once, or the second twice: 1/4, 1/2, 1/4."""
    units = np.array([[1.0, 1.0], [3.0, 4.0]])  # ratios 1, 4 / 5, 3 / 4
    low, high = bootstrap_of_sums(units, lambda s: s[..., 0] / s[..., 1])
    assert (low, high) == (0.75, 1)
    assert bootstrap_of_sums(units, lambda s: s[..., 0] / s[..., 1], level=0.4) == (0.8, 0.8)
    assert bootstrap_of_sums(units[:1], lambda s: s[..., 0] / s[..., 1]) == (1, 1)


def test_bootstrap_memory_is_bounded(monkeypatch):
    """Drawn in many small batches, an interval is still that of the mean."""
    monkeypatch.setattr("unbox.statistics.DRAWN_AT_ONCE", 64)
    values = np.random.default_rng(1).standard_normal(60)
    found, half = bootstrap(values), Z * values.std() / np.sqrt(60)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)


@pytest.mark.parametrize(("hits", "n"), [(8, 10), (0, 50), (50, 50), (13, 40), (1, 1)])
def test_wilson_interval_is_its_formula(hits, n):
    p, f = hits / n, Z * Z / n
    middle, half = p + f / 2, Z * np.sqrt(p * (1 - p) / n + f / (4 * n))
    assert wilson(hits, n) == pytest.approx(((middle - half) / (1 + f), (middle + half) / (1 + f)), abs=1e-6)


def test_wilson_interval_at_the_ends():
    assert wilson(0, 50)[0] == 0
    assert wilson(50, 50)[1] == 1
    assert wilson(0, 0) == (0, 1)


def pairwise(scores, labels):
    """AUROC by its meaning: how often a positive image scores above a negative one."""
    pairs = list(itertools.product(scores[labels], scores[~labels]))
    return np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs])


def test_auroc_is_the_chance_that_a_positive_scores_higher():
    rng = np.random.default_rng(0)
    scores = np.maximum(rng.standard_normal((30, 600)), 0).round(1).astype(np.float32)  # many ties
    labels = rng.random((30, 3)) < 0.4
    table = auroc(scores, labels)
    for label, feature in itertools.product(range(3), (0, 5, 511, 512, 599)):
        assert table[label, feature] == pytest.approx(pairwise(scores[:, feature], labels[:, label]))


def test_a_label_that_everything_or_nothing_has_scores_nan():
    scores = np.random.default_rng(0).random((6, 2))
    assert np.isnan(auroc(scores, np.stack([np.ones(6, bool), np.zeros(6, bool)], 1))).all()


def test_auroc_of_each_feature_for_a_label_of_its_own():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((4, 30)).round(1), rng.random((4, 30)) < 0.4
    found = auroc(scores[..., None], labels[..., None])[:, 0, 0]
    assert found == pytest.approx([pairwise(s, p) for s, p in zip(scores, labels, strict=True)])
    assert np.isnan(auroc(np.zeros((0, 2)), np.zeros((0, 1), bool))).all()


def test_a_streaming_bootstrap_is_the_normal_interval_too():
    """Of a mean, as above; parts that are summed apart are the whole, whatever their order."""
    values = np.random.default_rng(1).standard_normal(2000)
    whole, parts = StreamingBootstrap(2, 4000), [StreamingBootstrap(2, 4000) for _ in range(2)]
    units = np.stack([values, np.ones(2000)], 1)
    whole.add(range(2000), units)
    for part, some in zip(parts, (range(1999, 700, -1), range(701)), strict=True):
        part.add(some, units[list(some)])
    low, high = whole.interval(lambda sums: sums[..., 0] / sums[..., 1])
    half = Z * values.std() / np.sqrt(2000)
    assert [low, high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.08 * half)
    assert parts[0].sums + parts[1].sums == pytest.approx(whole.sums)
    assert whole.sums.nbytes == StreamingBootstrap(2, 4000).sums.nbytes == 4000 * 3 * 8


def test_a_streaming_bootstrap_of_one_unit():
    few = StreamingBootstrap(1, 500)
    few.add([7], np.array([[3.0]]))
    assert few.interval(lambda sums: sums[..., 0] / np.maximum(sums[..., 0] / 3, 1)) == (3, 3)
