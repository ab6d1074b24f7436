"""Statistics against NumPy's own, and exact under merging."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from activation_store import compiled_loops
from activation_store.moments import BINS_PER_OCTAVE, Moments, count_channels, empty, moments_of
from activation_store.number_formats import decode
from tests.activation_store import fakes

SEEDS = st.integers(0, 2**32)


def moments(x):
    return moments_of(np.asarray(x, np.float32))


@given(SEEDS, st.integers(1, 40), st.integers(1, 5), st.floats(-100, 100), st.floats(0.01, 10))
def test_mean_variance_and_count_are_numpys(seed, rows, width, mean, deviation):
    x = np.random.default_rng(seed).normal(mean, deviation, (rows, width)).astype(np.float32)
    found, scale = moments(x), np.abs(x).max()
    assert found.count == rows
    assert np.allclose(found.mean, x.mean(0, dtype=np.float64), atol=1e-6 * scale)
    assert np.allclose(found.variance, x.var(0, dtype=np.float64), rtol=1e-3, atol=(1e-6 * scale) ** 2)


def test_statistics_leave_their_argument_alone_unless_told_otherwise():
    x = np.random.default_rng(0).normal(3, 2, (2, 7, 5)).astype(np.float32)
    before = x.copy()
    found = moments_of(x)
    assert np.array_equal(x, before)
    again = moments_of(x, overwrite=True)
    for name in ("mean", "m2", "norms"):
        assert np.array_equal(getattr(found, name), getattr(again, name))


@pytest.mark.parametrize("shape", [(2, 7, 1280), (1, 1, 5), (3, 40, 2), (2, 256, 33)])
def test_statistics_are_the_same_bits_with_and_without_machine_code(monkeypatch, shape):
    """Else a store's bytes would depend on whether numba is installed."""
    pytest.importorskip("numba")
    x = np.random.default_rng(0).normal(0.3, 2, (shape[0], 1, *shape[1:])).astype(np.float32)
    found = []
    for compiled in (True, False):
        monkeypatch.setattr(compiled_loops, "AVAILABLE", compiled)
        counts = empty((shape[0], 1), shape[2]).channels
        count_channels(x, counts, 3)
        half = decode(x.astype(np.float16), None, "float16")
        some = moments_of(x)
        found.append((some.mean, some.m2, some.norms, counts, half))
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


@given(SEEDS, st.lists(st.integers(1, 9), min_size=1, max_size=8), st.randoms())
def test_merging_is_exact_in_any_grouping(seed, sizes, order):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(3, 2, (rows, 4)).astype(np.float32) for rows in sizes]
    whole = np.concatenate(parts).astype(np.float64)
    found = [moments(part) for part in parts]
    order.shuffle(found)
    while len(found) > 1:
        at = order.randrange(len(found) - 1)
        found[at : at + 2] = [found[at] + found[at + 1]]
    (merged,) = found
    assert merged.count == len(whole)
    assert np.allclose(merged.mean, whole.mean(0), rtol=1e-6)
    assert np.allclose(merged.m2, ((whole - whole.mean(0)) ** 2).sum(0), rtol=1e-4, atol=1e-4)
    assert np.array_equal(merged.norms, moments(whole).norms)


def test_float64_parts_merge_to_rounding():
    """Chan's update itself, apart from float32 sums within one call."""
    x = np.random.default_rng(0).normal(1000, 1, (1000, 3))
    one = [Moments(1, row, np.zeros(3), np.zeros(1, np.int64)) for row in x]
    merged = sum(one[1:], one[0])
    assert np.allclose(merged.mean, x.mean(0), rtol=1e-14)
    assert np.allclose(merged.variance, x.var(0), rtol=1e-10)


def test_nothing_is_neutral():
    some = moments(np.random.default_rng(0).normal(size=(5, 3)))
    nothing = empty((), 3)
    assert (nothing + some) is some
    assert (some + nothing) is some
    assert (nothing + nothing).count == 0


@pytest.mark.parametrize("q", [0.01, 0.5, 0.99])
def test_quantiles_of_the_norm_are_within_a_bin(q):
    x = np.random.default_rng(0).normal(0, 7, (5000, 16)).astype(np.float32)
    truth = np.quantile(np.linalg.norm(x, axis=1), q)
    assert abs(np.log2(moments(x).norm_quantile(q) / truth)) < 1 / BINS_PER_OCTAVE


def test_extreme_norms_stay_in_the_bins():
    x = np.array([[0.0], [1e-30], [1e30], [3e38]], np.float32)
    with np.errstate(over="ignore"):
        found = moments(x)
    assert found.norms.sum() == 4
    assert found.norms[[0, -1]].tolist() == [2, 2]


def test_a_store_knows_the_moments_of_each_step_and_branch(tmp_path):
    store = fakes.make(tmp_path, 10)
    for block in store.blocks:
        truth = np.stack([store[block].read(i) for i in range(10)]).astype(np.float64)
        for step in (0, 1):
            for b, branch in enumerate(store.schema.branches):
                rows = store[block].filter(steps=step, branches=branch)
                x = truth[:, step, b].reshape(-1, rows.width)
                assert rows.moments.count == len(x) == len(rows)
                assert np.allclose(rows.moments.mean, x.mean(0), atol=1e-5)
                assert np.allclose(rows.moments.variance, x.var(0), rtol=1e-5)
                norms = np.linalg.norm(x, axis=1)
                assert abs(np.log2(rows.moments.norm_quantile(0.5) / np.median(norms))) < 0.1
        assert np.allclose(store[block].moments.variance, truth.reshape(-1, rows.width).var(0), rtol=1e-5)
