"""Baseline dictionaries offer what an SAE offers, and are what their names say."""

import numpy as np
import pytest
import torch

from unbox.edits import neurons, principal, random_directions
from unbox.errors import UnboxError

ROWS = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32) * np.arange(1, 9) + 2
MAKERS = {
    "neurons": lambda: neurons("mid.0", ROWS),
    "pca": lambda: principal("mid.0", ROWS),
    "random": lambda: random_directions("mid.0", ROWS, 20, seed=1),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_interface_of_an_sae(name):
    basis = MAKERS[name]()
    x = torch.from_numpy(ROWS[:6].reshape(2, 3, 8))
    codes = basis.encode(x)
    assert codes.values.shape == codes.indices.shape == (2, 3, basis.latents)
    assert basis.W_dec.shape == (basis.latents, basis.width)
    assert torch.allclose(basis.W_dec.norm(dim=1), torch.ones(basis.latents), atol=1e-5)
    assert (basis.stats.mean_active > 0).all()
    assert basis.update_std == pytest.approx(np.sqrt(((ROWS - ROWS.mean(0)) ** 2).sum(1).mean()), rel=1e-4)
    assert basis.feature(3).add(1).sae is basis


def test_neurons_reconstruct_exactly():
    basis, x = MAKERS["neurons"](), torch.from_numpy(ROWS)
    assert torch.allclose(basis.decode(basis.encode(x)), x, atol=1e-5)


def test_the_first_component_has_the_largest_variance():
    codes = MAKERS["pca"]().coefficients(torch.from_numpy(ROWS))
    spread = codes.var(0)[:8]
    assert torch.equal(spread.argsort(descending=True), torch.arange(8))
    assert torch.allclose(codes[:, 0], -codes[:, 8], atol=1e-5)


def test_random_directions_follow_their_seed():
    first, again = (random_directions("mid.0", ROWS, 4, seed=s).W_dec for s in (3, 3))
    assert torch.equal(first, again)
    assert not torch.equal(first, random_directions("mid.0", ROWS, 4, seed=4).W_dec)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: neurons("attic", np.ones((3, 4))),
            "neurons: block = 'attic': should be the name of a block",
        ),
        (lambda: neurons("mid.0", np.ones(4)), "neurons: rows = .*: should be finite updates"),
        (lambda: principal("mid.0", np.full((3, 4), np.nan)), "pca: rows = .*: should be finite updates"),
        (lambda: principal("mid.0", np.ones((3, 4)), 0), "principal: count = 0: should be at least 1"),
        (lambda: random_directions("mid.0", np.ones((3, 4)), 1.5), "random: count = 1.5: should be a whole"),
        (
            lambda: random_directions("mid.0", np.ones((3, 4)), 2, -1),
            "random: seed = -1: should be at least 0",
        ),
        (lambda: random_directions("mid.0", np.ones((3, 4)), 10**11), "100,000,000,000 random .* would take"),
    ],
)
def test_arguments_are_checked_by_rule(make, message):
    with pytest.raises(UnboxError, match=f"^{message}"):
        make()
