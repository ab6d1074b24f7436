"""Pictures by address: whole, once, to nobody else; and how few bytes an answer has."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from unbox.explorer.image_recipe import Recipe
from unbox.explorer.served_pictures import ServedPictures


def noise(side: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def of(pictures: ServedPictures, address: str) -> Image.Image:
    assert address.startswith(f"{pictures.root}/picture/")
    return Image.open(io.BytesIO(pictures.read(address.rpartition("/")[2])))


def test_a_picture_comes_back_to_the_bit_and_has_one_address():
    pictures = ServedPictures()
    first, other = noise(32), noise(32, 1)
    address = pictures.image(first)
    np.testing.assert_array_equal(np.asarray(of(pictures, address).convert("RGB")), np.asarray(first))
    assert pictures.image(noise(32)) == address != pictures.image(other)
    assert ServedPictures().image(first) != address  # no address can be told from its picture
    assert pictures.read("0" * 32 + ".webp") is None
    assert pictures.read("../../etc/passwd") is None


def test_a_png_carries_its_recipe(recipe):
    pictures = ServedPictures()
    saved = of(pictures, pictures.image(noise(32), recipe.to_json()))
    assert saved.format == "PNG"
    assert Recipe.from_json(json.loads(saved.text["unbox"])) == recipe
    assert pictures.image(noise(32), recipe.to_json()) != pictures.image(noise(32))


def test_files_are_those_that_were_shown(tmp_path):
    noise(16).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"secret")
    pictures = ServedPictures()
    pictures.root = "/unbox"
    address = pictures.file(tmp_path / "a.png")
    assert of(pictures, address).size == (16, 16)
    assert pictures.file(None) == ""
    assert pictures.read("b.png") is None
    (tmp_path / "a.png").unlink()
    assert pictures.read(address.rpartition("/")[2]) is None


def test_pictures_of_longest_ago_make_room():
    pictures = ServedPictures(limit=40_000)
    addresses = [pictures.image(noise(64, seed)).rpartition("/")[2] for seed in range(5)]
    assert [pictures.read(name) is None for name in addresses] == [True, True, False, False, False]


@pytest.mark.parametrize("side", [64, 1024])
def test_an_answer_grows_with_no_picture(side):
    from unbox.explorer.canvas import result_html
    from unbox.explorer.canvas_state import MadeImage

    recipe = Recipe("tiny", "a red cat", 7, height=side, width=side)
    html = result_html(MadeImage(recipe, noise(side), noise(side, 1)))
    assert len(html) < 2_500
