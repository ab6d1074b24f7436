"""The definition of the losses against loops in plain NumPy, which know nothing of torch."""

import numpy as np
import pytest
import torch

from unbox.errors import UnboxError
from unbox.sae import VARIANTS
from unbox.sae.objective import NESTED_CODES, auxk_loss, sae_loss

COUNT, D, N, K = 6, 4, 12, 3
LEVELS = {"topk": (), "batchtopk": (), "matryoshka": (3, 5, 12), "multik": (1, 2, 3)}


def problem(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"W_enc": (N, D), "W_dec": (N, D), "b_pre": (D,), "b_lat": (N,)}
    return rng.normal(size=(COUNT, D)), {name: rng.normal(size=shape) for name, shape in shapes.items()}


def codes_of(x, w):
    return np.array([[w["W_enc"][i] @ (row - w["b_pre"]) + w["b_lat"][i] for i in range(N)] for row in x])


def row_winners(pre, k):
    kept = np.zeros_like(pre)
    for row, values in enumerate(pre):
        for i in sorted(range(len(values)), key=lambda i: -values[i])[:k]:
            kept[row, i] = max(values[i], 0)
    return kept


def batch_winners(pre, k):
    kept = np.zeros_like(pre)
    places = [(row, i) for row in range(pre.shape[0]) for i in range(pre.shape[1])]
    for row, i in sorted(places, key=lambda place: -pre[place])[: k * len(pre)]:
        kept[row, i] = max(pre[row, i], 0)
    return kept


NESTED = {
    "topk": lambda pre: [row_winners(pre, K)],
    "batchtopk": lambda pre: [batch_winners(pre, K)],
    "matryoshka": lambda pre: [
        np.where(np.arange(N) < level, batch_winners(pre, K), 0) for level in LEVELS["matryoshka"]
    ],
    "multik": lambda pre: [row_winners(pre, level) for level in LEVELS["multik"]],
}


@pytest.mark.parametrize("variant", NESTED)
def test_the_loss_is_its_formula(variant):
    x, w = problem()
    total = 0.0
    for z in NESTED[variant](codes_of(x, w)):
        for row in range(COUNT):
            decoded = w["b_pre"] + sum(z[row, i] * w["W_dec"][i] for i in range(N))
            total += float(np.sum((x[row] - decoded) ** 2)) / len(NESTED[variant](codes_of(x, w)))
    weights = {name: torch.from_numpy(value) for name, value in w.items()}
    found = sae_loss(torch.from_numpy(x), weights, variant, K, LEVELS[variant], variance=2.5)
    assert float(found) == pytest.approx(total / COUNT / 2.5, rel=1e-12)


@pytest.mark.parametrize("kappa", [None, 1, 9])
def test_auxk_is_its_formula(kappa):
    x, w = problem(1)
    error, dead = np.random.default_rng(2).normal(size=(COUNT, D)), [10, 2, 7, 3]
    z = row_winners(codes_of(x, w)[:, dead], min(kappa or D // 2, 4))
    left = error - z @ w["W_dec"][dead]
    expected = np.sum(left**2) / np.sum((error - error.mean(0)) ** 2)
    weights = {name: torch.from_numpy(value).requires_grad_() for name, value in w.items()}
    given = torch.from_numpy(error).requires_grad_()
    found = auxk_loss(torch.from_numpy(x), weights, given, torch.tensor(dead), kappa)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-12)
    found.backward()
    assert given.grad is None  # the error is taken as given
    assert all(weight.grad.abs().sum() > 0 for weight in weights.values())


def test_every_variant_is_defined():
    others = {name for name, kind in VARIANTS.items() if kind.learns_threshold}  # test_threshold_step
    assert set(NESTED_CODES) == set(VARIANTS) - others == set(NESTED)
    with pytest.raises(UnboxError, match="no variant 'none'; there are topk"):
        sae_loss(torch.zeros(1, 1), dict.fromkeys(("W_enc", "W_dec"), torch.ones(1, 1)), "none", 1)
