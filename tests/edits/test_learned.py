"""Learned baselines against planted truths."""

import numpy as np
import pytest
import torch

from unbox.edit import Direction
from unbox.edits.learned import classifier_shift, linear_probe, low_rank_shift, mean_difference
from unbox.edits.program import Program
from unbox.errors import UnboxError

DRAW = np.random.default_rng(0)
NOISE = DRAW.standard_normal((800, 8)).astype(np.float32)
#: Vectors of two kinds that differ along channel 2, while channel 0 is ten times as noisy.
WIDE = np.array([10, 1, 1, 1, 1, 1, 1, 1], np.float32)
LACKING, HAVING = NOISE[:400] * WIDE, NOISE[400:] * WIDE + 3 * np.eye(8, dtype=np.float32)[2]


def test_the_difference_of_means_is_that():
    np.testing.assert_allclose(mean_difference(HAVING, LACKING), HAVING.mean(0) - LACKING.mean(0), atol=1e-4)


def test_a_probe_points_where_the_kinds_differ_and_carries_one_mean_to_the_other():
    found = linear_probe(HAVING, LACKING)
    assert found[2] / np.linalg.norm(found) > 0.95
    gap = HAVING.mean(0) - LACKING.mean(0)
    unit = found / np.linalg.norm(found)
    assert np.linalg.norm(found) == pytest.approx(gap @ unit, rel=1e-4)
    # Chance fluctuations of the noisy channel do not turn it, as they turn the difference of means.
    assert abs(found[0]) < abs(gap[0]) + 0.05


def test_a_low_rank_map_is_found():
    """u + R'(W u + b - R u), of rank 2: made by it, found by it."""
    rows = np.linalg.qr(DRAW.standard_normal((8, 2)))[0].T
    weights, bias = 0.5 * DRAW.standard_normal((2, 8)), np.array([1.0, -2.0])
    after = NOISE + (NOISE @ (weights - rows).T + bias) @ rows
    shift = low_rank_shift("mid.0", NOISE, after, rank=2)
    np.testing.assert_allclose(shift.W_dec @ shift.W_dec.T, np.eye(2), atol=1e-5)
    fresh = DRAW.standard_normal((1, 5, 5, 8)).astype(np.float32)
    expected = (fresh @ (weights - rows).T + bias) @ rows
    for strength in (1.0, 0.5):
        update = torch.from_numpy(fresh)
        delta = Program((shift.edit(strength),), 8).delta(update, update, 0, "cond")
        np.testing.assert_allclose(delta.numpy(), strength * expected, atol=0.03)
    with pytest.raises(UnboxError, match="of other places"):
        low_rank_shift("mid.0", NOISE, after[:5])


def test_steps_down_a_classifiers_gradient_lead_to_the_wanted_kind():
    """Three kinds in a plane; what is moved is nearest to the mean of the wanted one afterwards."""
    middles = 3 * np.eye(8)[:3]
    labels = DRAW.integers(0, 3, 900)
    vectors = (middles[labels] + 0.5 * DRAW.standard_normal((900, 8))).astype(np.float32)
    shift = classifier_shift("mid.0", vectors, labels, 1)
    others = torch.from_numpy(vectors[labels == 0])[None, :, None]
    delta = Program((shift.edit(1.0),), 8).delta(others, others, 0, "cond")
    moved = (others + delta)[0, :, 0].numpy()
    nearest = ((moved[:, None] - middles) ** 2).sum(-1).argmin(1)
    assert (nearest == 1).mean() > 0.85
    deviation = np.sqrt(((vectors - vectors.mean(0)) ** 2).sum(1).mean())
    assert delta.norm(dim=-1).max() <= deviation * 1.001
    assert torch.equal(
        classifier_shift("mid.0", vectors, labels, 1).encode(others).values, shift.encode(others).values
    )
    with pytest.raises(UnboxError, match="one of several"):
        classifier_shift("mid.0", vectors, labels, 3)


def test_directions_are_edited_as_any():
    vector = linear_probe(HAVING, LACKING)
    delta = Program((Direction("mid.0", vector).add(2.0),), 8).delta(torch.zeros(1, 2, 2, 8), None, 0, "cond")
    np.testing.assert_allclose(delta.reshape(-1, 8)[0], 2 * vector, rtol=1e-5)
