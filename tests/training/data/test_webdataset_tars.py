"""WebDataset tars here and at URLs; samples are read in place."""

import gzip
import json

import fsspec
import pytest

from tests.training.data.pictures import picture, png, tar_of
from unbox.errors import UnboxError
from unbox.training.data.image_sources import open_images
from unbox.training.data.webdataset_tars import WebDatasetTars, tar_places


def two(folder):
    """Two tars of two samples."""
    for number in (0, 1):
        members = {}
        for i in (0, 1):
            members[f"{i:03}.jpg" if i else f"{i:03}.png"] = png(2 * number + i, 16, 24)
            members[f"{i:03}.txt"] = f"sample {number} {i}".encode()
        tar_of(folder / f"x-{number:02}.tar", members)


@pytest.mark.parametrize("name", ["{}", "{}/x-*.tar", "{}/x-{{00..01}}.tar"])
def test_samples_of_tars_in_their_order(tmp_path, name):
    two(tmp_path)
    source = open_images(name.format(tmp_path), 64)
    images = list(source.images())
    assert [image.caption for image in images] == ["sample 0 0", "sample 0 1", "sample 1 0", "sample 1 1"]
    assert images[2].key == "x-01.tar/000"
    for seed, image in enumerate(images):
        assert source.picture(image).tobytes() == picture(seed, 16, 24).tobytes()
        assert source.sides(image) == (16, 24)


def test_tars_at_a_url_are_the_same(tmp_path):
    two(tmp_path)
    for name in ("x-00.tar", "x-01.tar"):
        with fsspec.open(f"memory://wds/{name}", "wb") as file:
            file.write((tmp_path / name).read_bytes())
    here, there = (
        open_images(place, 64) for place in (f"{tmp_path}/x-{{00..01}}.tar", "memory://wds/x-{00..01}.tar")
    )
    for one, other in zip(here.images(), there.images(), strict=True):
        assert (one.key, one.caption, one.size) == (other.key, other.caption, other.size)
        assert here.digest(one) == there.digest(other)
    assert tar_places("memory://wds/x-*.tar") == ["memory:///wds/x-00.tar", "memory:///wds/x-01.tar"]


def test_captions_in_json_as_img2dataset_writes_them(tmp_path):
    told = json.dumps({"caption": "from json", "long": "longer"}).encode()
    tar = tar_of(tmp_path / "a.tar", {"d/1.webp": png(1), "d/1.json": told})
    both = tar_of(tmp_path / "b.tar", {"1.png": png(1), "1.txt": b"from text", "1.json": told})
    for places, column, expected in (
        ((tar,), None, "from json"), ((tar,), "long", "longer"), ((both,), None, "from text"),
        ((both,), "long", "longer"),
    ):  # fmt: skip
        (image,) = WebDatasetTars(tuple(map(str, places)), column=column).images()
        assert image.caption == expected


MISTAKES = {
    "1 in {} has no image": {"1.txt": b"x"},
    "1 in {} has two images": {"1.png": b"x", "1.jpg": b"y", "1.txt": b"z"},
    "1 in {} has no caption": {"1.png": b"x", "1.cls": b"3"},
    "1 in {}: the caption is empty": {"1.png": b"x", "1.txt": b" "},
    "1 in {}: 1.txt is not in UTF-8": {"1.png": b"x", "1.txt": b"\xff\xfe"},
    "1 in {} is not valid JSON": {"1.png": b"x", "1.json": b"{"},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_what_is_wrong_is_said_of_the_sample(tmp_path, message):
    tar = tar_of(tmp_path / "a.tar", MISTAKES[message])
    with pytest.raises(UnboxError) as error:
        list(WebDatasetTars((str(tar),)).images())
    assert message.format(tar) in str(error.value)


def test_what_is_no_tar_is_refused_by_name(tmp_path):
    (tmp_path / "a.tar").write_bytes(gzip.compress(b"x" * 2000))
    with pytest.raises(UnboxError, match=r"a\.tar is not a tar that can be read in place"):
        list(WebDatasetTars((str(tmp_path / "a.tar"),)).images())
    for name, message in (
        ("{}/b.tar", "there is no tar at"),
        ("{}/y-*.tar", "there is no tar at"),
        ("{}/x-{{3..1}}.tar", "should go up"),
        ("{}/none", "there are no images at"),
    ):
        with pytest.raises(UnboxError, match=message):
            open_images(name.format(tmp_path), 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "shapes"}, "say how many with --limit"),
        ({"data": "shapes", "limit": 3, "split": "test"}, "not 'test'"),
        ({"data": "shapes", "limit": 3, "caption": "x"}, "--caption is not for shapes"),
        ({"data": ".", "split": "train"}, "--split is not for ."),
        ({"data": ".", "seed": 3}, "--data-seed is for --data shapes"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options, message):
    with pytest.raises(UnboxError, match=message):
        open_images(side=64, **options)
