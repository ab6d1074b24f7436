"""Noise that decides: unit noise still, and the value whose direction weighs most is the wanted one."""

import numpy as np
import pytest
import torch
from scipy import stats

from unbox.recipes.shapes.deciding_noise import OBJECT, WHOLE, DecidingNoise
from unbox.recipes.shapes.world import NAMES, values

SIDE = 12


def codes(n, seed):
    """(n, heads): any values, one object a scene."""
    rng = np.random.default_rng(seed)
    found = np.stack([rng.integers(values(name), size=n) for name in NAMES], 1)
    found[:, NAMES.index("relation")] = 0
    return found


@pytest.fixture(scope="module")
def world():
    """Scenes whose latents are a pattern for each value, and noise."""
    value, rng = codes(3000, 0), np.random.default_rng(1)
    x0 = rng.normal(size=(3000, 4 * SIDE * SIDE)) * 0.1
    for i, name in enumerate(NAMES):
        x0 += rng.normal(size=(values(name), x0.shape[1]))[value[:, i]] * (1 + i % 2)
    return torch.from_numpy(x0.astype(np.float32)).view(-1, 4, SIDE, SIDE), value


def test_directions_are_centred_and_orthogonal_between_factors(world):
    noise = DecidingNoise.of(*world, torch.zeros(3000, len(NAMES), dtype=torch.bool))
    for place in range(9):
        every = [*noise.whole, *noise.objects[place]]
        assert [len(basis) for basis in every] == [values(name) for name in (*WHOLE, *OBJECT)]
        for i, one in enumerate(every):
            for j, other in enumerate(every):
                found, n = one @ other.T, len(one)
                assert torch.allclose(found, torch.eye(n) - 1 / n if i == j else found * 0, atol=1e-4)


def test_directions_are_those_of_the_means_of_pictures(world):
    """A picture's own latents weigh most along the values it has."""
    x0, value = world
    noise = DecidingNoise.of(x0, value, torch.zeros(3000, len(NAMES), dtype=torch.bool))
    flat = (x0 - x0.mean(0)).flatten(1)
    for name, basis in zip(WHOLE, noise.whole, strict=True):
        assert ((flat @ basis.T).argmax(1).numpy() == value[:, NAMES.index(name)]).mean() > 0.9, name


def test_the_largest_weight_is_that_of_the_open_value(world):
    x0, value = world
    said = torch.zeros(3000, len(NAMES), dtype=torch.bool)
    said[:, NAMES.index("light")] = True
    noise = DecidingNoise.of(x0, value, said)
    index = torch.arange(400)
    eps = noise.draw(index, torch.Generator().manual_seed(0))
    for i, name in enumerate((*WHOLE, *OBJECT)):
        picked = [int((eps[k] @ (*noise.whole, *noise.objects[noise.place[k]])[i].T).argmax()) for k in index]
        right = (np.array(picked) == value[:400, NAMES.index(name)]).mean()
        assert right == 1 if name != "light" else 0.1 < right < 0.45, name


def test_unit_noise_stays_unit_noise(world):
    """Along the directions, and across them."""
    x0, value = world
    noise = DecidingNoise.of(x0, value, torch.zeros(6000, len(NAMES), dtype=torch.bool))
    eps = noise.draw(torch.arange(6000), torch.Generator().manual_seed(1))
    for basis in noise.whole:
        spread = (1 - 1 / len(basis)) ** 0.5
        assert min(stats.kstest(w / spread, "norm").pvalue for w in (eps @ basis.T).numpy().T) > 1e-4
    assert min(stats.kstest(eps[:, i].numpy(), "norm").pvalue for i in (0, 77, 300)) > 1e-4
    basis = torch.cat(noise.whole)
    found = torch.cov((eps @ basis.T).T)
    assert (found - basis @ basis.T).abs().max() < 0.08


def test_places_of_pairs_are_left_alone(world):
    x0, value = world[0], world[1].copy()
    value[:2, NAMES.index("relation")] = 1
    wanted = DecidingNoise.of(x0, value, torch.zeros(6000, len(NAMES), dtype=torch.bool)).wanted
    assert torch.equal(wanted[:3000], wanted[3000:])  # a second set of captions of the same scenes
    column = WHOLE.index("0.position")
    assert (wanted[:2, column] == -1).all()
    assert (wanted[2:3000, column].numpy() == value[2:, NAMES.index("0.position")]).all()
