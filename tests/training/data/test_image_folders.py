"""Folders as diffusers and kohya's scripts have them, and what is wrong with some."""

import json

import pytest
from PIL import Image

from tests.training.data.pictures import folder_of, png
from unbox.errors import UnboxError
from unbox.training.data.image_folders import ImageFolder


def captions(folder, **options):
    return {image.key: image.caption for image in ImageFolder(folder, **options).images()}


def test_captions_beside_images_in_the_order_of_paths(tmp_path):
    folder_of(tmp_path, {"b": "a dog,\n cartoon", "10_x/a": "a cat"})
    (tmp_path / "c.jpg").write_bytes(png(7))
    (tmp_path / "c.caption").write_text("\ufeffa bird\n")
    (tmp_path / ".hidden.png").write_bytes(b"no picture")
    (tmp_path / "notes.md").write_text("not an image")
    assert captions(tmp_path) == {"b.png": "a dog, cartoon", "c.jpg": "a bird", "10_x/a.png": "a cat"}


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_table_of_imagefolder_names_images_of_its_folder_and_below(tmp_path, name):
    for path in ("a.png", "sub/b.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(png(1))
    if name.endswith("csv"):
        (tmp_path / name).write_text("file_name,text\na.png,a cat\nsub/b.png,a dog\n")
    else:
        rows = [{"file_name": "a.png", "text": "a cat"}, {"file_name": "sub/b.png", "text": "a dog"}]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    assert captions(tmp_path) == {"a.png": "a cat", "sub/b.png": "a dog"}


def test_a_column_is_chosen_and_one_caption_is_for_the_rest(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(2))
    row = {"file_name": "a.png", "text": "short", "long": "a longer one"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    told = captions(tmp_path, column="long", caption="sks")
    assert told == {"a.png": "a longer one", "b.png": "sks"}


def damaged(folder):
    (folder / "a.png").write_bytes(png(1)[:200])
    (folder / "a.txt").write_text("a cat")


MISTAKES = {
    "a.png has no caption: write a.txt beside it": lambda f: (f / "a.png").write_bytes(png(1)),
    "there are no images in": lambda f: (f / "a.txt").write_text("x"),
    "b.png', which is not in the folder": lambda f: (
        (f / "a.png").write_bytes(png(1)),
        (f / "metadata.jsonl").write_text('{"file_name": "b.png", "text": "x"}'),
    ),
    "a.png has two captions, in a.txt and the folder's metadata": lambda f: (
        folder_of(f, {"a": "x"}),
        (f / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}'),
    ),
    "a.txt: the caption is empty": lambda f: folder_of(f, {"a": " \n"}),
    "a.heic is an image of a kind that is not read": lambda f: (f / "a.heic").write_bytes(b"x"),
    "metadata.jsonl and metadata.csv: leave one": lambda f: [
        (f / n).write_text("") for n in ("metadata.jsonl", "metadata.csv")
    ],
    "has no column file_name": lambda f: (
        (f / "a.png").write_bytes(png(1)),
        (f / "metadata.jsonl").write_text('{"text": "x"}'),
    ),
    "a.png: the picture cannot be read as a picture": damaged,
}


@pytest.mark.parametrize("message", MISTAKES)
def test_what_is_wrong_is_said_of_the_file(tmp_path, message):
    MISTAKES[message](tmp_path)
    source = ImageFolder(tmp_path)
    with pytest.raises(UnboxError) as error:
        [source.picture(image) for image in source.images()]
    assert message in str(error.value)


def test_sides_are_those_of_the_upright_picture(tmp_path):
    image, exif = Image.new("RGB", (40, 20)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "a.txt").write_text("x")
    source = ImageFolder(tmp_path)
    (found,) = source.images()
    assert source.sides(found) == (40, 20)
    assert source.picture(found).size == (20, 40)
    assert source.digest(found) == source.digest(found)
