"""Masks: exact area averages at any resolution, and JSON without loss."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unbox.errors import UnboxError
from unbox.mask import Mask

sides = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(sides, sides, sides, sides, st.integers(0, 2**32 - 1))
def test_area_average_keeps_the_mean_and_constants(h, w, th, tw, seed):
    array = np.random.default_rng(seed).random((h, w), np.float32)
    placed = Mask.of(array).on(th, tw)
    assert placed.shape == (th, tw)
    assert placed.mean() == pytest.approx(array.mean(), abs=1e-6)
    assert np.allclose(Mask.of(np.ones((h, w))).on(th, tw), 1)


def test_area_average_is_the_mean_over_each_cell():
    array = np.random.default_rng(0).random((48, 64), np.float32)
    expected = array.reshape(8, 6, 16, 4).mean((1, 3))
    assert np.allclose(Mask.of(array).on(8, 16), expected, atol=1e-6)


def test_a_box_is_the_array_of_its_coverage():
    fine = np.zeros((400, 400), np.float32)
    fine[100:250, 40:260] = 1
    box = Mask.of((0.1, 0.25, 0.65, 0.625))
    for grid in [(8, 8), (3, 7), (1, 1)]:
        assert np.allclose(box.on(*grid), Mask.of(fine).on(*grid), atol=1e-6)


@pytest.mark.parametrize("side", [1, 6000])
def test_extreme_resolutions(side):
    mask = np.zeros((side, side), bool)
    mask[: max(side // 2, 1)] = True
    placed = Mask.of(mask).on(16, 16)
    assert np.array_equal(placed[:8], np.ones((8, 16)))
    assert placed[8:].max() == (side == 1)


def test_leading_axes_are_kept():
    maps = np.random.default_rng(0).random((3, 2, 4, 4), np.float32)
    placed = Mask.of(maps).on(4, 4)
    assert np.allclose(placed, maps)


@pytest.mark.parametrize(
    "where",
    [
        None,
        "own",
        (0.0, 0.0, 0.5, 1.0),
        np.eye(5, dtype=bool),
        np.random.default_rng(1).random((7, 3), np.float32),
        -np.ones((2, 3, 3)),
    ],
    ids=["none", "own", "box", "bool", "float", "steps"],
)
def test_json_round_trip(where):
    mask = Mask.of(where)
    written = json.dumps(None if mask is None else mask.to_json())
    assert Mask.from_json(json.loads(written)) == mask


def test_an_image_is_read_as_grey_levels():
    image = Image.fromarray(np.full((5, 9), 51, np.uint8))
    assert np.allclose(Mask.of(image).on(5, 9), 0.2)
    assert Mask.of(image.convert("RGB")) == Mask.of(image)


@pytest.mark.parametrize(
    "where",
    ["all", (0, 0, 0, 1), (0.5, 0, 0.2, 1), np.ones(3), np.full((2, 2), np.nan), object(), np.ones((0, 3))],
    ids=["word", "flat box", "swapped box", "one axis", "nan", "object", "empty"],
)
def test_what_is_no_mask_is_refused(where):
    with pytest.raises(UnboxError):
        Mask.of(where)


@pytest.mark.parametrize(
    "change", [{"shape": [4, 4]}, {"zlib": "AAAA"}, {"dtype": "f8"}, {"shape": [1 << 40, 1]}]
)
def test_damaged_json_is_refused(change):
    written = Mask.of(np.eye(3)).to_json()
    with pytest.raises(UnboxError):
        Mask.from_json({**written, **change})


def test_emptiness():
    assert Mask.of(np.zeros((3, 3))).empty
    assert not Mask.of(np.eye(3)).empty
    assert not Mask.of("own").empty
