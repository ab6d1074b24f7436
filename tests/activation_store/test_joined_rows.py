"""Several stores and blocks as one: one after the other, and side by side."""

import json
from collections import Counter

import numpy as np
import pytest

from activation_store import AlignedRows, JoinedRows, Store, StoreError, join_stores, shards
from tests.activation_store import fakes
from tests.activation_store.test_batches import as_set

WIDE = {"blocks": {"a": (4, 4, 6), "b": (4, 4, 64)}}


def flat(rows, images):
    return np.concatenate([rows.read(i).reshape(-1, rows.width) for i in images])


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two runs of other seeds, of 10 and 7 images, one of them with an absent one."""
    folder = tmp_path_factory.mktemp("stores")
    other = {"provenance": {"system": "fake", "seed": 1}, "shard_samples": 3}
    return [
        fakes.make(folder / "1", 10, bad={4}, on_bad="skip"),
        fakes.make(folder / "2", 7, **other),
    ]


def test_stores_one_after_another_are_one(stores):
    rows = join_stores([store.path for store in stores])["up.1.0"]
    parts = [store["up.1.0"] for store in stores]
    truth = np.concatenate([part.read_images(range(len(part.samples))) for part in parts])
    assert rows.shape == truth.shape
    assert len(rows) == sum(map(len, parts))
    assert np.array_equal(np.stack([rows.read(i) for i in range(16)]), truth)
    whole = truth.reshape(-1, rows.width)
    batches = rows.batches(50, seed=3, pool_bytes=2000)
    first = [next(batches) for _ in range(4)]
    cursor = json.loads(json.dumps(batches.cursor))
    rest = list(batches)
    assert np.array_equal(as_set(np.concatenate([*first, *rest])), as_set(whole))
    again = list(rows.batches(50, seed=3, pool_bytes=2000, cursor=cursor))
    assert all(map(np.array_equal, rest, again))
    ranks = [np.concatenate(list(rows.batches(50, rank=rank, world=2, pool_bytes=2000))) for rank in (0, 1)]
    assert np.array_equal(as_set(np.concatenate(ranks)), as_set(whole))
    some = rows.sample(300, seed=1)
    assert len(some) == 300  # images 0 to 6 are in both
    assert Counter(row.tobytes() for row in some) <= Counter(row.tobytes() for row in whole)
    part = rows.filter(steps=1, branches="cond", samples=range(7, 12))
    assert np.array_equal(np.stack([part.read(i) for i in range(5)]), truth[7:12, 1:, 1:])
    assert part.digest != rows.digest
    with pytest.raises(StoreError, match="image 16 is not among the 16 images"):
        rows.filter(samples=[16])


def test_what_cannot_be_read_as_one_is_named(tmp_path, stores):
    coarse = fakes.make(tmp_path / "8", 3, dtype="int8")
    fewer = fakes.make(tmp_path / "s", 3, steps=(1,))
    with pytest.raises(StoreError, match=r"has 8 channels in float16, mid\.0 of .* 8 channels in int8"):
        join_stores([stores[0].path, coarse.path])
    with pytest.raises(StoreError, match=r"has steps \(0, 1\), .* \(1,\): filter them first"):
        join_stores([stores[0].path, fewer.path])
    with pytest.raises(StoreError, match="no stores were given"):
        join_stores([])
    with pytest.raises(StoreError, match="places"):
        JoinedRows((stores[0]["mid.0"], stores[0]["up.1.0"]))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Two blocks of one grid and other widths, and the same images in another format and other shards."""
    folder = tmp_path_factory.mktemp("wide")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("shard", "shard_writer"):
            patch.setattr(f"activation_store.{module}.CHUNK_BYTES", 2500)
        one = fakes.make(folder / "1", 21, shard_samples=8, **WIDE)
        two = fakes.make(folder / "2", 21, dtype="float32", shard_samples=5, **WIDE)
        yield Store.open(one.path), Store.open(two.path)


@pytest.mark.parametrize(
    "parts", [[(0, "a"), (0, "b")], [(0, "b"), (1, "b")], [(1, "a"), (0, "b"), (0, "a")]]
)
def test_rows_side_by_side_are_of_the_same_image_step_and_place(wide, parts):
    rows = AlignedRows(tuple(wide[number][block] for number, block in parts))
    each = [flat(part, range(21)) for part in rows.parts]
    whole = np.concatenate(each, axis=1)
    assert (rows.width, len(rows)) == (whole.shape[1], len(whole))
    batches = rows.batches(50, seed=3, pool_bytes=30_000)
    got = [next(batches), next(batches)]
    cursor = json.loads(json.dumps(batches.cursor))
    got += batches
    assert np.array_equal(as_set(np.concatenate(got)), as_set(whole))
    again = list(rows.batches(50, seed=3, pool_bytes=30_000, cursor=cursor))
    assert all(map(np.array_equal, got[2:], again))
    views = rows.split(got[0])
    assert [view.shape for view in views] == [(50, part.width) for part in rows.parts]
    known = {row.tobytes() for row in whole}
    some = rows.sample(200, seed=2)
    assert len(np.unique(some, axis=0)) == 200
    assert {row.tobytes() for row in some} <= known
    assert np.array_equal(rows.read(20).reshape(-1, rows.width), whole[-64:])
    part = rows.filter(steps=1, samples=[2, 9, 20])
    assert {row.tobytes() for row in np.concatenate(list(part.batches(10)))} <= known
    assert len(part) == 3 * 2 * 16


def test_images_that_differ_are_refused_by_name(tmp_path, wide, monkeypatch):
    one = wide[0]
    other = fakes.make(tmp_path / "o", 21, shard_samples=21, **WIDE)
    with monkeypatch.context() as patch:
        patch.setattr(fakes, "sample", lambda i, plain=fakes.sample: plain(i + (i == 7)))
        patch.setattr("activation_store.writer.Writer._add", other_numbers(patch))
        swapped = fakes.make(tmp_path / "x", 21, shard_samples=8, **WIDE)
    AlignedRows((one["a"], other["b"]))  # other shards: the samples themselves are compared
    with pytest.raises(StoreError, match="differ in image 7"):
        AlignedRows((one["a"], swapped["b"]))
    with pytest.raises(StoreError, match="have 21 and 20 images"):
        AlignedRows((one["a"], other["b"].filter(samples=range(20))))
    with pytest.raises(StoreError, match="places"):
        AlignedRows((one["a"], fakes.make(tmp_path / "s", 21)["mid.0"]))


def other_numbers(patch):
    """Images are taken with the number that is due, whatever their sample says."""
    from activation_store.writer import Writer

    plain, due = Writer._add, iter(range(1000))

    def add(self, image):
        from dataclasses import replace

        plain(self, replace(image, sample=replace(image.sample, index=next(due))))

    return add


def test_stores_with_equal_lists_are_compared_without_opening_a_shard(wide, monkeypatch):
    monkeypatch.setattr(shards, "open_shard", None)
    one = Store.open(wide[0].path)
    AlignedRows((one["a"], Store.open(wide[0].path)["b"]))
