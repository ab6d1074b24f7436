"""Pooling of sparse codes against the same thing done densely, one picture at a time."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from unbox.ground_truth.demo.feature_search import Weighted, maps, pooled, ranking, tables, values_of
from unbox.ground_truth.demo.top_pictures import shown
from unbox.ground_truth.demo.turn_on import Addition
from unbox.image_uri import image_uri
from unbox.shapes import FACTORS, masks, sample_scenes

LATENTS, K, STEPS, SIDE = 12, 3, 2, 8


class Coder:
    """An SAE whose latents are the coordinates: the K largest of each vector are kept."""

    latents = LATENTS

    def encode(self, x):
        values, indices = x.topk(K, dim=-1)
        return SimpleNamespace(values=values.clamp(min=0), indices=indices)


class Rows:
    """Rows of a store, from an array (pictures, steps, branches, y, x, d)."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def read(self, i):
        return self.array[i]


@pytest.fixture(scope="module")
def world():
    scenes = sample_scenes(70, seed=3)
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(70, STEPS, 1, SIDE, SIDE, LATENTS)).astype(np.float32)
    # Latent 5 is red: strong on the positions of red objects.
    for i, scene in enumerate(scenes):
        for thing, mask in zip(scene.objects, masks(scene), strict=True):
            if thing.colour == "red":
                updates[i, :, :, *np.nonzero(mask[8::16, 8::16]), 5] += 6
    return scenes, Rows(updates)


def dense(updates):
    codes = Coder().encode(torch.from_numpy(updates))
    full = np.zeros(updates.shape, np.float32)
    np.put_along_axis(full, codes.indices.numpy(), codes.values.numpy(), -1)
    return full.mean((0, 1))


def test_pooling_is_the_mean_over_the_object(world):
    scenes, rows = world
    codes = pooled(Coder(), rows, scenes)
    expected = []
    for i, scene in enumerate(scenes):
        np.testing.assert_allclose(codes.pictures[i], dense(rows.read(i)).mean((0, 1)), atol=1e-5)
        for mask in masks(scene):
            share = mask.reshape(SIDE, 16, SIDE, 16).mean((1, 3))
            expected.append((dense(rows.read(i)) * share[..., None]).sum((0, 1)) / share.sum())
    np.testing.assert_allclose(codes.objects, expected, atol=1e-5)


def test_maps_are_the_dense_codes(world):
    _, rows = world
    found = maps(Coder(), rows, [5, 0])
    for i in (0, 33, 69):
        np.testing.assert_allclose(
            found[:, i], dense(rows.read(i))[..., [5, 0]].transpose(2, 0, 1), atol=1e-6
        )


def test_the_planted_feature_is_found(world):
    scenes, rows = world
    codes = pooled(Coder(), rows, scenes)
    table = tables(codes, scenes)
    assert {factor: len(values) for factor, values in FACTORS.items()} == {
        f: len(t) for f, t in table.items()
    }
    red = table["colour"][FACTORS["colour"].index("red")]
    assert red.argmax() == 5
    assert red[5] > 0.95
    assert ranking({"mid.0": codes}, {"mid.0": 2.0}, scenes, ("colour", "red"))[0][:2] == ("mid.0", 5)


def test_rows_of_a_factor_are_objects_or_pictures():
    scenes = sample_scenes(20, seed=1)
    assert len(values_of(scenes, "light")) == 20
    assert list(values_of(scenes, "shape")) == [o.shape for s in scenes for o in s.objects]


def test_deviation_weighs_blocks():
    scenes = sample_scenes(40, seed=2)
    red = (values_of(scenes, "colour") == "red").astype(np.float32)
    codes = SimpleNamespace(of=lambda factor: np.stack([red, -red], 1))
    order = ranking({"a": codes, "b": codes}, {"a": 5.0, "b": 1.0}, scenes, ("colour", "red"))
    assert order == [("b", 0, 1.0), ("a", 0, 1.0)]  # latent 1 speaks against red and is left out


class Dictionary:
    """Unit directions with known mean activity; the last two latents are dead."""

    latents, width, block = 8, 6, "mid.0"

    def __init__(self):
        rng = np.random.default_rng(1)
        directions = rng.normal(size=(8, 6))
        self.W_dec = torch.tensor(directions / np.linalg.norm(directions, axis=1, keepdims=True))
        self.stats = SimpleNamespace(
            mean_active=torch.tensor(rng.uniform(0.5, 3, 8)), density=torch.tensor([0.1] * 6 + [0.0] * 2)
        )


def added(edits, sae):
    """The vector that edits add, by the words of `Edit`: value along the decoder's directions."""
    assert all(edit.op == "add" and edit.unit == "absolute" for edit in edits)
    return sum(edit.value * sae.W_dec[list(edit.feature)].sum(0).numpy() for edit in edits)


def test_an_addition_adds_its_weights_times_its_strength():
    sae = Dictionary()
    addition = Addition((Weighted("mid.0", 4, 0.5), Weighted("mid.0", 1, 2.0)), 3.0)
    expected = 1.5 * sae.W_dec[4] + 6 * sae.W_dec[1]
    np.testing.assert_allclose(added(addition.edits({"mid.0": sae}, None), sae), expected, rtol=1e-6)
    assert addition.names == ["mid.0/4", "mid.0/1"]


def test_examples_come_in_order_of_their_peaks():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(9)]
    maps_ = np.zeros((9, 8, 8), np.float32)
    maps_[:, 2, 3] = [0, 5, 1, 2, 8, 3, 0, 0, 4]

    def webp(i):
        import base64

        return base64.b64decode(image_uri(Image.fromarray(pictures[i])).split(",")[1])

    store = SimpleNamespace(thumbnail=webp, samples=[SimpleNamespace(prompt=f"<{i}>") for i in range(9)])
    example = shown(store, ("mid.0", 7), maps_)
    assert [p["caption"] for p in example["pictures"]] == ["<4>", "<1>", "<8>", "<5>", "<3>", "<2>"]
    assert example["name"] == "mid.0/7"
    assert example["active"] == pytest.approx(6 / (9 * 64))
