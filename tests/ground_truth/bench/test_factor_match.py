"""MCC on planted features, and against trying every match."""

from itertools import permutations

import numpy as np
import pytest

from unbox.ground_truth.bench.factor_match import correlations, match_candidates, match_score
from unbox.shapes import FACTORS, sample_scenes

DRAW = np.random.default_rng(0)


def test_correlations_are_pearsons():
    codes, labels = DRAW.standard_normal((50, 4)), DRAW.integers(0, 2, (50, 3)).astype(float)
    codes[:, 3] = 2.0
    found = correlations(codes, labels)
    for v in range(3):
        for f in range(3):
            assert found[v, f] == pytest.approx(abs(np.corrcoef(codes[:, f], labels[:, v])[0, 1]))
    assert (found[:, 3] == 0).all()


def candidates(table, scored, names="abc"):
    return [
        {"factor": "f", "value": names[v], "features": list(range(table.shape[1])),
         "chosen": table[v].tolist(), "scored": scored[v].tolist()}
        for v in range(len(table))
    ]  # fmt: skip


def test_the_match_is_the_best_of_all():
    for _ in range(20):
        table, scored = DRAW.uniform(size=(2, 3, 5))
        best = max(permutations(range(5), 3), key=lambda some: sum(table[v, f] for v, f in enumerate(some)))
        expected = np.mean([scored[v, f] for v, f in enumerate(best)])
        assert match_score([candidates(table, scored)]) == pytest.approx(expected)


def test_blocks_together_are_one_pool_of_features():
    first, second = np.diag([0.9, 0.1, 0.1]), np.diag([0.2, 0.8, 0.7])
    parts = [candidates(table, table) for table in (first, second)]
    assert match_score(parts) == pytest.approx(0.8)
    assert match_score(parts[:1]) == pytest.approx(1.1 / 3)
    assert np.isnan(match_score([]))


class Channels:
    """A dictionary whose features are the channels."""

    def __init__(self, latents):
        self.latents = latents

    def encode(self, x):
        from types import SimpleNamespace

        import torch

        return SimpleNamespace(values=x, indices=torch.arange(self.latents).expand_as(x))


class Planted:
    """Each value of each factor is a channel, in an order of its own; `noise` on top."""

    def __init__(self, scenes, noise):
        values = [(f, v) for f, of in FACTORS.items() for v in of]
        self.order = DRAW.permutation(len(values))
        self.shape = (len(scenes), 1, 1, 1, 1, len(values))
        shown = [
            {(f, v) for slot in range(len(s.objects)) for f, v in s.factors(slot).items()} for s in scenes
        ]
        exact = np.array([[values[i] in of for i in self.order] for of in shown], np.float32)
        self.updates = exact + noise * DRAW.standard_normal(exact.shape).astype(np.float32)

    def read(self, i):
        return self.updates[i].reshape(1, 1, 1, 1, -1)


@pytest.mark.parametrize(("noise", "least", "most"), [(0.0, 0.999, 1.0), (0.3, 0.5, 0.95), (100.0, 0.0, 0.2)])
def test_planted_factors_are_matched_as_far_as_the_noise_lets_them(noise, least, most):
    scenes = sample_scenes(400, seed=2)
    rows = Planted(scenes, noise)
    found = match_score([match_candidates(Channels(rows.shape[-1]), rows, scenes)])
    assert least <= found <= most + 1e-6
