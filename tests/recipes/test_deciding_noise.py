"""Noise that decides: unit noise still, and the value whose direction weighs most is the wanted one."""

import numpy as np
import pytest
import torch
from scipy import stats

from unbox.errors import UnboxError
from unbox.recipes.shapes.deciding_noise import DECIDED, PLACE, WHOLE, DecidingNoise
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
    cover = torch.zeros(3000, 1, SIDE, SIDE)
    cover[..., 3:8, 3:8] = torch.from_numpy(rng.uniform(size=(3000, 1, 5, 5)))
    return torch.from_numpy(x0.astype(np.float32)).view(-1, 4, SIDE, SIDE), cover, value


def test_directions_are_centred_and_orthogonal_between_factors(world):
    noise = DecidingNoise.of(*world, torch.zeros(3000, len(NAMES), dtype=torch.bool))
    for every in zip(*noise.directions_of(torch.arange(8)), strict=True):
        assert [len(basis) for basis in every] == [values(name) for name in DECIDED]
        for i, one in enumerate(every):
            for j, other in enumerate(every):
                found, n = one @ other.T, len(one)
                assert torch.allclose(found, torch.eye(n) - 1 / n if i == j else found * 0, atol=1e-4)


def test_directions_are_those_of_the_means_of_pictures(world):
    """A picture's own latents weigh most along the values it has."""
    x0, cover, value = world
    noise = DecidingNoise.of(x0, cover, value, torch.zeros(3000, len(NAMES), dtype=torch.bool))
    flat = (x0 - x0.mean(0)).flatten(1)
    for name, basis in zip(WHOLE, noise.tables, strict=False):
        assert ((flat @ basis[0].T).argmax(1).numpy() == value[:, NAMES.index(name)]).mean() > 0.9, name


def test_the_largest_weight_is_that_of_the_open_value(world):
    x0, cover, value = world
    said = torch.zeros(3000, len(NAMES), dtype=torch.bool)
    said[:, NAMES.index("light")] = True
    noise = DecidingNoise.of(x0, cover, value, said)
    index = torch.arange(400)
    eps = noise.draw(index, torch.Generator().manual_seed(0))
    for name, basis in zip(DECIDED, noise.directions_of(index), strict=True):
        picked = [int((eps[k] @ basis[k].T).argmax()) for k in index.tolist()]
        right = (np.array(picked) == value[:400, NAMES.index(name)]).mean()
        assert right == 1 if name != "light" else 0.1 < right < 0.45, name


def test_unit_noise_stays_unit_noise(world):
    """Along the directions, and across them."""
    x0, cover, value = world
    noise = DecidingNoise.of(x0, cover, value, torch.zeros(6000, len(NAMES), dtype=torch.bool))
    eps = noise.draw(torch.arange(6000), torch.Generator().manual_seed(1))
    whole = [table[0] for table in noise.tables[: len(WHOLE)]]
    for basis in whole:
        spread = (1 - 1 / len(basis)) ** 0.5
        assert min(stats.kstest(w / spread, "norm").pvalue for w in (eps @ basis.T).numpy().T) > 1e-4
    assert min(stats.kstest(eps[:, i].numpy(), "norm").pvalue for i in (0, 77, 300)) > 1e-4
    basis = torch.cat(whole)
    found = torch.cov((eps @ basis.T).T)
    assert (found - basis @ basis.T).abs().max() < 0.08


def test_places_of_pairs_are_left_alone(world):
    x0, cover, value = world[0], world[1], world[2].copy()
    value[:2, NAMES.index("relation")] = 1
    noise = DecidingNoise.of(x0, cover, value, torch.zeros(6000, len(NAMES), dtype=torch.bool))
    assert torch.equal(noise.codes[:3000], noise.codes[3000:])  # a second set of captions of the same scenes
    assert not noise.free[[0, 1, 3000, 3001], PLACE].any()
    assert noise.free[2:3000, PLACE].all()
    assert (noise.codes[:3000, PLACE].numpy() == value[:, NAMES.index("0.position")]).all()


def test_an_outline_is_drawn_in_the_channels_in_which_objects_differ(world):
    """Large is more of the object and less of the background around it, whatever the colours."""
    rng = np.random.default_rng(2)
    value = codes(4000, 3)
    size, colour, ground, place = (
        value[:, NAMES.index(n)] for n in ("0.size", "0.colour", "background", "0.position")
    )
    cover = np.zeros((4000, 1, SIDE, SIDE), np.float32)
    for i in range(4000):
        edge = 3 + size[i]
        cover[i, 0, place[i] : place[i] + edge, 2 : 2 + edge] = 1
    axis = np.array([0.6, 0, -0.8, 0])
    paints, grounds = rng.normal(size=(8, 1)) * axis, rng.normal(size=(6, 1)) * axis
    x0 = paints[colour][..., None, None] * cover + grounds[ground][..., None, None] * (1 - cover)
    for name in ("light", "0.texture", "0.shape", "background"):
        x0 += rng.normal(size=(values(name), 4, SIDE, SIDE))[value[:, NAMES.index(name)]]
    said = torch.zeros(4000, len(NAMES), dtype=torch.bool)
    noise = DecidingNoise.of(torch.from_numpy(x0).float(), torch.from_numpy(cover), value, said)
    basis = noise.directions_of(torch.arange(60))[DECIDED.index("0.size")].view(60, -1, 4, SIDE, SIDE)
    ring = np.zeros((60, SIDE, SIDE))
    for i in range(60):
        ring[i, place[i] : place[i] + 4, 2:6] = 1
        ring[i, place[i] : place[i] + 3, 2:5] = 0
    along = np.einsum("ivcyx,c,iyx->iv", basis.numpy(), axis, ring)
    assert (along[:, 1] * along[:, 0] < 0).all()
    assert (np.abs(along[:, 1]) > 1).all()  # of at most the root of the seven places of the ring, halved
    assert len(set(np.sign(along[:, 1]))) == 1


def test_scenes_that_leave_a_place_empty_are_refused(world):
    x0, cover, value = world
    there = value[:, NAMES.index("0.position")] != 4
    said = torch.zeros(int(there.sum()), len(NAMES), dtype=torch.bool)
    with pytest.raises(UnboxError, match=r"9 places without an object alone.*--scenes"):
        DecidingNoise.of(x0[there], cover[there], value[there], said)
