"""Thumbnails in one file: each is read as it was written, a damaged file is refused."""

import h5py
import numpy as np
import pytest

from unbox.atlas.thumbnail_file import GATHERED, ThumbnailFile, write_thumbnail_file
from unbox.errors import UnboxError


def pictures(count, size=3000):
    random = np.random.default_rng(1)
    return [(3 * i, random.bytes(int(random.integers(0, size)))) for i in range(count)]


def test_each_is_read_as_it_was_written(tmp_path):
    given = pictures(4000)  # more than are gathered before they are written
    assert sum(len(data) for _, data in given) > GATHERED
    write_thumbnail_file(tmp_path / "t.h5", iter(given))
    found = ThumbnailFile.open(tmp_path / "t.h5")
    assert all(found.find(image).read_bytes() == data for image, data in given[::37])
    assert found.find(1) is None
    assert found.find(10**6) is None
    assert len(list(tmp_path.iterdir())) == 1
    assert (tmp_path / "t.h5").stat().st_size < 1.05 * sum(len(data) for _, data in given) + 200_000


def test_none_is_a_file_too(tmp_path):
    write_thumbnail_file(tmp_path / "t.h5", [])
    assert ThumbnailFile.open(tmp_path / "t.h5").find(0) is None


def test_a_damaged_file_is_refused(tmp_path):
    write_thumbnail_file(tmp_path / "t.h5", pictures(5))
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        file["end"][2] = 10**9
    with pytest.raises(UnboxError, match="build the atlas again"):
        ThumbnailFile.open(tmp_path / "t.h5")
    (tmp_path / "t.h5").write_bytes(b"no HDF5")
    with pytest.raises(UnboxError, match="build the atlas again"):
        ThumbnailFile.open(tmp_path / "t.h5")
