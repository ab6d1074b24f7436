"""Stores of version 1 are read as they are, and upgraded in place, whatever happens meanwhile."""

import os
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from activation_store import Sample, Store, StoreError, Writer, repair, shards, upgrade, verify
from activation_store.listing import read_settings
from tests.activation_store.test_faults import Failing

ARCHIVE = Path(__file__).parents[1] / "written_before" / "store.zip"


@pytest.fixture
def folder(tmp_path):
    """A store of version 1."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    (found,) = (path.parent for path in tmp_path.rglob("store.json"))
    shutil.move(found, tmp_path / "old")
    return tmp_path / "old"


def rows_of(store):
    return {block: store[block].read_images(range(len(store))) for block in store.blocks}


def is_same(store, before):
    return all(np.array_equal(rows, before[block]) for block, rows in rows_of(store).items())


def files(folder):
    return {path.name: path.stat().st_ino for path in folder.rglob("*.h5")}


def test_an_upgraded_store_has_the_same_digest_rows_and_files(folder, monkeypatch):
    old, before = Store.open(folder), rows_of(Store.open(folder))
    moments, cursor = old.moments("mid.0"), old["mid.0"].batches(7, seed=5).cursor
    inodes = files(folder)
    assert upgrade(folder) == len(old.entries)
    assert read_settings(folder)[1] == 2
    assert not list(folder.glob("manifest-*"))
    new = Store.open(folder)
    assert (new.digest, new.versions) == (old.digest, old.versions)
    assert is_same(new, before)
    assert files(folder) == inodes
    assert verify(folder).good
    list(new["mid.0"].batches(7, seed=5, cursor=cursor))
    monkeypatch.setattr(shards, "open_shard", None)
    found = Store.open(folder).moments("mid.0")
    assert found.count == moments.count
    assert np.allclose(found.m2, moments.m2)
    with pytest.raises(StoreError, match="not counted"):
        found.channel_quantile(0.5)
    assert upgrade(folder) == 0


@pytest.mark.parametrize("name", ["rename", "replace", "fsync", "mkdir"])
def test_an_upgrade_that_is_cut_off_anywhere_leaves_a_good_store_and_goes_on(folder, monkeypatch, name):
    digest, before, nth = Store.open(folder).digest, rows_of(Store.open(folder)), 0
    while True:
        nth += 1
        with monkeypatch.context() as patch:
            failing = Failing(getattr(os, name), nth, 5)
            patch.setattr(os, name, failing)
            with suppress(OSError):
                upgrade(folder)
        store = Store.open(folder)
        assert store.digest == digest
        assert is_same(store, before)
        if failing.left > 0:
            break
    assert upgrade(folder) == 0
    assert verify(folder).good


def test_a_store_of_version_1_is_not_written_to_before_it_is_upgraded(folder):
    store = Store.open(folder)
    count, shapes = store.entries[-1].stop, store.schema
    more = [*map(at_its_place(store), range(count)), Sample(count, "one more", 1)]
    some = {block: np.ones(shapes.shape(block, 1), np.float32) for block in store.blocks}
    with Writer(folder, store.schema) as writer:
        (new,) = writer.missing(more)
        with pytest.raises(StoreError, match="unbox store upgrade"):
            writer.append([new], some)
    upgrade(folder)
    before = rows_of(store)
    with Writer(folder, store.schema) as writer:
        (new,) = writer.missing(more)
        writer.append([new], some, [b"picture"])
    grown = Store.open(folder)
    assert len(grown) == len(store) + 1
    assert verify(folder).good
    for block, rows in rows_of(grown).items():
        assert np.array_equal(rows[:-1], before[block])
        assert (rows[-1] == 1).all()
        assert grown.moments(block).count == len(rows) * rows.shape[3] * rows.shape[4]


def at_its_place(store):
    samples = {sample.index: sample for sample in store.samples}
    return samples.__getitem__


def test_a_repaired_store_of_version_1_is_one_of_version_2(folder):
    digest, before = Store.open(folder).digest, rows_of(Store.open(folder))
    (folder / "manifest-00000.json").write_text("{")
    assert repair(folder).images == len(before["mid.0"])
    assert read_settings(folder)[1] == 2
    assert Store.open(folder).digest == digest
    assert is_same(Store.open(folder), before)
    assert verify(folder).good
