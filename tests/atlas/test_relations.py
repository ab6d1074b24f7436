"""The most related features, beside a sort of everything."""

import numpy as np
import pytest

from unbox.atlas.relations import largest, neighbours


@pytest.mark.parametrize("none", [0.3, 0.9])
@pytest.mark.parametrize("levels", [2, 7, 10**6])
@pytest.mark.parametrize(("n", "count"), [(40, 8), (8, 8), (5, 8), (300, 1)])
def test_the_largest_are_those_that_a_stable_sort_puts_first(levels, n, count, none):
    draw = np.random.default_rng(levels)
    score = (draw.integers(0, levels, (64, n)) / levels).astype(np.float32)  # few levels: many are equal
    score[draw.random(score.shape) < none] = -np.inf
    score[0] = -np.inf
    expected = np.argsort(-score, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(largest(score, count), expected)


def test_neighbours_are_the_nearest_of_all_cosines():
    decoder = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    found = neighbours(decoder, 8)
    unit = decoder.astype(float) / np.linalg.norm(decoder.astype(float), axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    expected = np.argsort(-cosine, axis=1)[:, :8]
    np.testing.assert_array_equal(found.other, expected)
    np.testing.assert_allclose(found.score, np.take_along_axis(cosine, expected, 1), atol=1e-6)
