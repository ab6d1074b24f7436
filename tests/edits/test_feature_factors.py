"""Factors of features: planted ones are found, their edits are the sums that they say."""

import numpy as np
import pytest
import torch

from tests.edits.dictionaries import random_sae
from unbox.edit import Edits
from unbox.edits.feature_factors import (
    FactorDictionary,
    FeatureFactor,
    alike,
    cluster_factors,
    factorise,
    nmf_factors,
)
from unbox.edits.program import Program
from unbox.errors import UnboxError

SAE = random_sae("mid.0", width=6, latents=12, k=3)
DRAW = np.random.default_rng(0)


def test_planted_factors_are_found_and_the_error_never_grows():
    amounts = DRAW.gamma(0.5, 1.0, (200, 3))
    parts = np.zeros((3, 12))
    parts[0, :4], parts[1, 4:8], parts[2, 8:] = DRAW.uniform(1, 2, (3, 4))
    codes = torch.from_numpy((amounts @ parts).astype(np.float32))
    errors = []
    for rounds in (1, 5, 20, 80, 300):
        found = factorise(codes, 3, seed=1, rounds=rounds)
        errors.append(float((codes - found[0] @ found[1]).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02 * float(codes.norm())
    unit = found[1] / found[1].norm(dim=1, keepdim=True)
    planted = torch.from_numpy(parts / np.linalg.norm(parts, axis=1, keepdims=True)).float()
    assert (unit @ planted.T).amax(1).min() > 0.99
    assert sorted((unit @ planted.T).argmax(1).tolist()) == [0, 1, 2]
    with pytest.raises(UnboxError, match="negative"):
        factorise(-codes, 3)


def test_vectors_that_point_one_way_are_one_group():
    middles = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))).Q[:3]
    noise = torch.randn(60, 8, generator=torch.Generator().manual_seed(1))
    vectors = torch.nn.functional.normalize(middles.repeat_interleave(20, 0) + 0.1 * noise, dim=1)
    groups = alike(vectors, 3).tolist()
    assert all(len(set(groups[20 * i : 20 * i + 20])) == 1 for i in range(3))
    assert len(set(groups)) == 3
    assert alike(vectors, 3).tolist() == groups


def test_clusters_are_of_living_features_with_their_mean_values():
    found = cluster_factors(SAE, 4)
    members = sorted(f for factor in found for f in factor.features)
    assert members == np.flatnonzero(np.asarray(SAE.stats.density) > 0).tolist()
    assert [len(f.features) for f in found] == sorted((len(f.features) for f in found), reverse=True)
    for factor in found:
        np.testing.assert_allclose(
            factor.weights, np.asarray(SAE.stats.mean_active)[list(factor.features)], rtol=1e-6
        )
    with pytest.raises(UnboxError, match="living features"):
        cluster_factors(SAE, 40)


FACTOR = FeatureFactor(SAE, (5, 2), (2.0, 0.5))


def test_an_edit_of_a_factor_moves_all_of_its_features():
    update = torch.from_numpy(DRAW.standard_normal((1, 2, 2, 6)).astype(np.float32))
    decoder = SAE.W_dec.detach().numpy()
    added = Program(tuple(FACTOR.add(-3.0)), 6).delta(update, update, 0, "cond")
    expected = -3 * (2 * decoder[5] + 0.5 * decoder[2])
    np.testing.assert_allclose(
        np.broadcast_to(added, update.shape), np.broadcast_to(expected, update.shape), atol=1e-5
    )
    np.testing.assert_allclose(FACTOR.direction, expected / -3, atol=1e-6)
    gone = Program(tuple(FACTOR.scale(0.0)), 6).delta(update, update, 0, "cond")
    codes = SAE.encode(update).dense(12).detach().numpy()
    np.testing.assert_allclose(gone, -codes[..., [5, 2]] @ decoder[[5, 2]], atol=1e-5)
    again = Edits.from_json(FACTOR.add(2.0, steps=(0, 1)).to_json())
    assert [e.feature for e in again] == [(5,), (2,)]


def test_a_dictionary_of_factors_reads_what_it_adds():
    rows = DRAW.standard_normal((50, 6)).astype(np.float32)
    basis = FactorDictionary.of([FACTOR, FeatureFactor(SAE, (7,), (1.5,))], rows)
    assert torch.allclose(basis.W_dec.norm(dim=1), torch.ones(2), atol=1e-5)
    codes = SAE.encode(torch.from_numpy(rows)).dense(12).detach().numpy()
    length = float(FACTOR.direction.norm())
    expected = (2 * codes[:, 5] + 0.5 * codes[:, 2]) / 4.25 * length
    np.testing.assert_allclose(basis.encode(torch.from_numpy(rows)).values[:, 0], expected, atol=1e-5)
    delta = Program((basis.feature(0).add(1.0, unit="absolute"),), 6).delta(
        torch.zeros(1, 2, 2, 6), None, 0, "cond"
    )
    np.testing.assert_allclose(delta.reshape(-1, 6)[0], FACTOR.direction / length, atol=1e-5)
    assert basis.stats.density.shape == (2,)
    with pytest.raises(UnboxError, match="no factors"):
        FactorDictionary.of([], rows)


class Recorded:
    """Rows of two kinds of pictures: features 1 and 4 fire together, or 9 alone."""

    def __init__(self, images):
        self.images, self.shape = images, (len(images), 1, 1, 2, 2, 6)

    def filter(self, samples):
        return Recorded([self.images[i] for i in samples])

    def read(self, i):
        return np.broadcast_to(self.images[i], self.shape[1:]).astype(np.float32)


def test_factors_of_recorded_images(monkeypatch):
    from unbox.edits import feature_factors

    codes = {"both": np.eye(12)[1] * 2 + np.eye(12)[4], "one": np.eye(12)[9] * 0.5}
    kinds = ["both", "one"] * 10
    strengths = DRAW.uniform(0.5, 2, 20)

    def means(sae, rows):
        return np.stack([rows.images[0]])

    monkeypatch.setattr(feature_factors, "mean_codes", means)
    rows = Recorded([codes[kind] * s for kind, s in zip(kinds, strengths, strict=True)])
    first, second = nmf_factors(SAE, rows, 2)
    assert set(first.features) == {1, 4}
    assert second.features == (9,)
    assert first.weights[0] / first.weights[1] == pytest.approx(2, rel=0.02)
    mean = np.mean([codes["both"] * s for k, s in zip(kinds, strengths, strict=True) if k == "both"], 0) / 2
    assert first.weights[0] == pytest.approx(mean[1], rel=0.02)
    with pytest.raises(UnboxError, match="as many images"):
        nmf_factors(SAE, rows, 21)
