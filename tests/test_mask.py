"""Masks: exact area averages at any resolution, and JSON without loss."""

import base64
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unbox.errors import FieldError, UnboxError
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


REFUSED = [
    ("all", "mask: 'all': should be a box"),
    (b"own", "mask: b'own': should be a box"),
    (Path("mask.png"), "mask: .*mask.png.*: should be a box"),
    (object(), "mask: <object .*: should be a box"),
    ({"box": 1}, "mask: {'box': 1}: should be a box"),
    (3, r"mask: shape = \(\): should have at least 2 items"),
    (torch.tensor(3), r"mask: shape = \(\): should have at least 2 items"),
    (np.ones(3), r"mask: shape = \(3,\): should have at least 2 items"),
    (np.ones((1,) * 5), r"mask: shape = \(1, 1, 1, 1, 1\): should have at most 4 items"),
    (np.ones((0, 3)), r"mask: shape\[0\] = 0: should be at least 1"),
    ((0, 0, 0, 1), r"Mask: box = \(0.*, 0.*, 0.*, 1.*\): should be \(left, top, right, bottom\)"),
    ((0.5, 0, 0.2, 1), "Mask: box = .*: should be .left, top, right, bottom. in fractions"),
    ((0, 0, math.nan, 1), r"Mask: box\[2\] = nan: should be a finite number"),
    ((0, 0, 10**400, 1), r"Mask: box\[2\] = 1000.*: should be a finite number"),
    ((0, 0, "1", 1), r"Mask: box\[2\] = '1': should be a number"),
    ((0, 0, True, 1), r"Mask: box\[2\] = True: should be a number"),
    (np.full((2, 2), np.nan), r"mask: array.* should have finite values"),
    (np.full((2, 2), 1e300), r"mask: array.* should have finite values"),
    (np.full((2, 2), 1j), "mask: array.*: should be a box"),
    (np.full((2, 2), "1"), "mask: array.*: should be a box"),
    (np.full((2, 2), None), "mask: array.*: should be a box"),
    (np.zeros((2, 2), "datetime64[s]"), "mask: array.*: should be a box"),
    (np.ma.masked_equal(np.eye(2), 1), "mask: masked_array.*: should be a box"),
    ([[1, 2], [3]], r"mask: \[\[1, 2\], \[3\]\]: should be a box"),
    ([[1, "2"], [3, None]], "mask: .*: should be a box"),
]


@pytest.mark.parametrize(("where", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_is_no_mask_is_refused(where, message):
    with pytest.raises(FieldError, match=f"^{message}"):
        Mask.of(where)


def test_tensors_of_any_kind_are_masks():
    levels = torch.eye(3)
    expected = Mask.of(levels.numpy())
    for tensor in (levels, levels.requires_grad_(), levels.bfloat16(), levels.half(), levels.bool()):
        assert Mask.of(tensor) == expected


WRITTEN = Mask.of(np.eye(3)).to_json()
BOMB = base64.b64encode(zlib.compress(bytes(10**7))).decode()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (WRITTEN | {"shape": [4, 4]}, "zlib = 'eJ.*': should hold 16 bytes, as the shape says"),
        (WRITTEN | {"shape": [2, 2]}, "zlib = 'eJ.*': should hold 4 bytes, as the shape says"),
        (WRITTEN | {"shape": [3, 3.5]}, r"shape\[1\] = 3.5: should be a whole number"),
        (WRITTEN | {"shape": [3, -3]}, r"shape\[1\] = -3: should be at least 1"),
        (WRITTEN | {"shape": "33"}, "shape.* = '33': should be a whole number"),
        (WRITTEN | {"shape": None}, "shape"),
        (WRITTEN | {"shape": [1 << 40, 1]}, r"shape\[0\] = 1099511627776: should be less than"),
        (WRITTEN | {"zlib": "AAAA"}, "zlib = 'AAAA': should be deflated, in base64"),
        (WRITTEN | {"zlib": "é"}, "zlib = 'é': should be deflated, in base64"),
        (WRITTEN | {"zlib": 3}, "zlib = 3: should be a text"),
        (WRITTEN | {"zlib": WRITTEN["zlib"][:-4]}, "zlib = .*: should hold 9 bytes"),
        (WRITTEN | {"zlib": BOMB}, "zlib = .*: should hold 9 bytes"),
        (WRITTEN | {"dtype": "f8"}, "dtype = 'f8': should be one of 'u1' or 'f4'"),
        (WRITTEN | {"dtype": ["u1"]}, "dtype"),
        (WRITTEN | {"evil": 1}, "evil = 1: is unknown"),
        ({"shape": [3, 3], "dtype": "u1"}, "zlib is missing"),
        ({"box": None}, r"box\[0\] = None: should be a number"),
        ({"box": [0, 0, 1]}, r"box\[3\] is missing"),
        ({"box": [0, 0, 9, 9]}, "box = .*: should be .left, top, right, bottom. in fractions"),
        ({"box": [0, 0, "1", 1]}, r"box\[2\] = '1': should be a number"),
        ({"box": [0, 0, 1, 1], "shape": [1, 1]}, r"shape = \[1, 1\]: is unknown"),
        ({}, "{}: should be 'own', "),
        ([0, 0, 1, 1], r"\[0, 0, 1, 1\]: should be 'own'"),
    ],
)
def test_json_that_is_no_mask_is_refused(value, message):
    with pytest.raises(FieldError, match=f"^mask: {message}"):
        Mask.from_json(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mask.of(np.broadcast_to(np.float32(1), (10**6, 10**6))),
        lambda: Mask.of(torch.ones(1, 1).expand(10**6, 10**6)),
        lambda: Mask.from_json({"shape": [40_000] * 3, "dtype": "u1", "zlib": BOMB}),
        lambda: Mask.of(np.eye(300)).on(10**9, 300),
        lambda: Mask.of((0, 0, 1, 1)).on(10**7, 10**7),
        lambda: Mask.of(np.ones((200, 50, 4, 4))).on(10_000, 10_000),
    ],
)
def test_memory_is_asked_for_before_it_is_taken(make):
    with pytest.raises(UnboxError, match=r"a (mask|box) .* would take .* of memory; the limit is"):
        make()


@pytest.mark.parametrize(
    "fields",
    [{}, {"own": True, "box": (0, 0, 1, 1)}, {"own": 1}, {"box": (0, 0, 2, 1)}, {"code": "u1", "data": b"a"},
     {"code": "u2", "shape": (1, 1), "data": b"a"}, {"code": "u1", "shape": (1, 2), "data": b"a"},
     {"own": True, "data": b"a"}],
)  # fmt: skip
def test_a_mask_is_one_thing(fields):
    with pytest.raises(FieldError, match=r"^Mask: "):
        Mask(**fields)


def test_messages_do_not_write_the_data_out():
    assert "data" not in repr(Mask.of(np.random.default_rng(0).random((100, 100))))


def test_emptiness():
    assert Mask.of(np.zeros((3, 3))).empty
    assert not Mask.of(np.eye(3)).empty
    assert not Mask.of("own").empty
