"""Data sets that `datasets` loads, here from a folder of Parquet."""

import pytest

from tests.training.data.pictures import picture, png
from unbox.errors import UnboxError
from unbox.training.data.hub_images import HubImages

datasets = pytest.importorskip("datasets")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = {
        "image": [{"bytes": png(i, 16, 8), "path": None} for i in range(3)],
        "caption": ["a cat", "a dog", " "],
        "size": [1, 2, 3],
    }
    features = datasets.Features(
        {"image": datasets.Image(), "caption": datasets.Value("string"), "size": datasets.Value("int32")}
    )
    place = tmp_path / "set"
    place.mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(place / "train.parquet")
    return place


def test_rows_are_images_with_captions(folder):
    source = HubImages(str(folder), caption="a thing")
    images = list(source.images())
    assert [image.caption for image in images] == ["a cat", "a dog", "a thing"]
    for seed, image in enumerate(images):
        assert source.picture(image).tobytes() == picture(seed, 16, 8).tobytes()
        assert source.sides(image) == (16, 8)
    for options, message in (
        ({}, "row 3 of .*: the caption is empty"),
        ({"column": "title"}, "has no column title; it has image, caption, size"),
        ({"split": "test"}, "cannot be read"),
    ):
        with pytest.raises(UnboxError, match=message):
            list(HubImages(str(folder), **options).images())
