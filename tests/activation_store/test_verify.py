"""Repair, merge, subset."""

import errno
import os
import sys

import numpy as np
import pytest

from activation_store import (
    Store,
    StoreError,
    Writer,
    merge,
    number_formats,
    repair,
    shard_writer,
    subset,
    verify,
)
from activation_store.commit_log import log_path
from activation_store.entries import shard_files
from activation_store.number_formats import NUMBER_FORMATS
from tests.activation_store import fakes
from tests.activation_store.test_faults import Failing

merge_module = sys.modules["activation_store.merge"]  # as an attribute of the package it is the function


def damage(store, number):
    path = store.path / "shards" / "00000" / store.entries[number].name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_repair_keeps_every_good_shard_and_collecting_fills_exactly_the_holes(tmp_path):
    store = fakes.make(tmp_path, 22)
    damage(store, 1)
    damage(store, 4)
    assert [f.file for f in verify(tmp_path).findings] == [
        "shards/000000004-000000008.h5",
        "shards/000000016-000000020.h5",
    ]
    report = repair(tmp_path)
    assert (report.shards, report.images, report.missing) == (4, 14, ((4, 8), (16, 20)))
    opened = Store.open(tmp_path)
    assert len(opened) == 14
    assert opened.missing(24) == [(4, 8), (16, 20), (22, 24)]
    assert [sample.index for sample in opened.samples] == [0, 1, 2, 3, *range(8, 16), 20, 21]
    assert np.array_equal(opened["mid.0"].read(4), store["mid.0"].read(8))
    kept = {
        name: os.stat(tmp_path / "shards" / "00000" / name).st_mtime_ns for name in fakes.contents(tmp_path)
    }
    assert fakes.make(tmp_path, 22).digest == store.digest
    for name, when in kept.items():
        assert os.stat(tmp_path / "shards" / "00000" / name).st_mtime_ns == when


def test_repairing_a_good_store_changes_nothing(tmp_path):
    store = fakes.make(tmp_path, 10)
    report = repair(tmp_path)
    assert report.good
    assert report.images == 10
    assert Store.open(tmp_path).digest == store.digest


def test_repair_adopts_what_a_killed_writer_published_without_its_log(tmp_path):
    store = fakes.make(tmp_path, 10)
    log_path(tmp_path, 0).unlink()
    assert len(Store.open(tmp_path)) == 0
    assert repair(tmp_path).images == 10
    assert Store.open(tmp_path).digest == store.digest


def test_repair_is_refused_while_a_process_writes(tmp_path):
    with Writer(tmp_path, fakes.schema()), pytest.raises(StoreError, match="in use"):
        repair(tmp_path)


def test_repair_joins_the_logs_of_ranks_and_drops_the_superseded(tmp_path):
    fakes.make(tmp_path, 6, rank=0, world=2)
    fakes.make(tmp_path, 6, rank=1, world=2)
    shorter = tmp_path / "shards/00000/000000004-000000006.h5"
    data = shorter.read_bytes()
    fakes.make(tmp_path, 10)  # rank 0 of 1 goes on with rank 1's 4..5, to 4..7
    assert not shorter.exists()
    shorter.write_bytes(data)  # as a machine that died before it was removed leaves it
    report = verify(tmp_path)
    assert [f.file for f in report.findings] == ["shards/000000004-000000006.h5"]
    repair(tmp_path)
    assert verify(tmp_path).good
    assert Store.open(tmp_path).digest == fakes.make(tmp_path / "whole", 10).digest


@pytest.mark.parametrize("dtype", NUMBER_FORMATS)
def test_merging_the_parts_of_a_run_gives_the_run(tmp_path, dtype):
    whole = fakes.make(tmp_path / "whole", 10, dtype=dtype)
    parts = [tmp_path / "even", tmp_path / "odd"]
    for rank, part in enumerate(parts):
        fakes.make(part, 10, rank=rank, world=2, dtype=dtype)
    merged = merge(parts, tmp_path / "merged")
    assert merged.digest == whole.digest
    assert fakes.contents(tmp_path / "merged") == fakes.contents(whole.path)


def test_what_is_whole_is_linked_and_nothing_is_decoded(tmp_path, monkeypatch):
    """Also of parts with a shard that is not full, and with an absent image."""
    whole = fakes.make(tmp_path / "whole", 23, bad={5}, on_bad="skip")
    parts = [tmp_path / "even", tmp_path / "odd"]
    for rank, part in enumerate(parts):
        fakes.make(part, 23, rank=rank, world=2, bad={5}, on_bad="skip")
    for module in (number_formats, merge_module, shard_writer):
        monkeypatch.setattr(module, "decode", None)
    merged = merge(parts, tmp_path / "merged")
    assert merged.digest == whole.digest
    assert (len(merged), set(merged.absent)) == (22, {5})
    assert inodes(merged) == {**inodes(Store.open(parts[0])), **inodes(Store.open(parts[1]))}
    all_of_it = subset(whole.path, tmp_path / "all", samples=range(4))
    assert inodes(all_of_it).items() <= inodes(whole).items()
    monkeypatch.setattr(os, "link", Failing(None, 1, errno.EXDEV))  # another disk
    copied = subset(whole.path, tmp_path / "copied", samples=range(4))
    assert not inodes(copied).items() & inodes(whole).items()
    assert fakes.contents(copied.path) == fakes.contents(all_of_it.path)


def test_a_subset_links_what_it_does_not_cut_and_copies_the_rest(tmp_path):
    store = fakes.make(tmp_path / "all", 23, bad={9}, on_bad="skip")
    part = subset(store.path, tmp_path / "part", samples=slice(0, 18))
    shared = inodes(part).items() & inodes(store).items()
    assert sorted(name for name, _ in shared) == ["000000000-000000004.h5", "000000004-000000008.h5"]
    assert len(part) == 18  # 9 is left out, and what follows is numbered on
    for block in store.blocks:
        assert np.array_equal(part[block].read_images(range(18)), store[block].read_images(range(18)))
    assert [sample.prompt for sample in part.samples] == [sample.prompt for sample in store.samples[:18]]
    assert part["mid.0"].moments.count == len(part["mid.0"])
    assert verify(part.path).good


def inodes(store):
    return {path.name: path.stat().st_ino for path in shard_files(store.path)}


def test_merging_different_runs_numbers_on_and_says_of_what(tmp_path):
    one = fakes.make(tmp_path / "1", 5)
    two = fakes.make(tmp_path / "2", 6, provenance={"system": "fake", "seed": 1})
    merged = merge([one.path, two.path], tmp_path / "merged")
    assert len(merged) == 11
    assert [sample.index for sample in merged.samples] == list(range(11))
    assert [sample.prompt for sample in merged.samples[5:]] == [sample.prompt for sample in two.samples]
    for i in range(11):
        source, j = (one, i) if i < 5 else (two, i - 5)
        assert np.array_equal(merged["up.1.0"].read(i), source["up.1.0"].read(j))
        assert merged.thumbnail(i) == source.thumbnail(j)
    assert [part["digest"] for part in merged.provenance["merged"]] == [one.digest, two.digest]
    count = one["mid.0"].moments.count + two["mid.0"].moments.count
    both = one["mid.0"].moments + two["mid.0"].moments
    assert merged["mid.0"].moments.count == count
    assert np.allclose(merged["mid.0"].moments.variance, both.variance, rtol=1e-9)
    assert np.array_equal(merged["mid.0"].moments.norms, both.norms)


def test_what_cannot_be_merged_is_named(tmp_path):
    fakes.make(tmp_path / "1", 4)
    fakes.make(tmp_path / "2", 4, dtype="int8")
    with pytest.raises(StoreError, match="differ in dtype \\(float16 and int8\\)"):
        merge([tmp_path / "1", tmp_path / "2"], tmp_path / "out")
    with pytest.raises(StoreError, match="not empty"):
        merge([tmp_path / "1"], tmp_path / "2")
    with pytest.raises(StoreError, match="no stores"):
        merge([], tmp_path / "out")


def test_a_subset_is_what_was_chosen(tmp_path):
    store = fakes.make(tmp_path / "all", 10)
    part = subset(
        store.path, tmp_path / "part", blocks=["up.1.0"], steps=[1], branches=["cond"], samples=range(2, 9)
    )
    assert part.blocks == ("up.1.0",)
    assert part["up.1.0"].shape == (7, 1, 1, 4, 4, 4)
    assert part["up.1.0"].steps == (1,)
    for i in range(7):
        whole = store["up.1.0"].filter(steps=1, branches="cond").read(i + 2)
        assert np.array_equal(part["up.1.0"].read(i), whole)
        assert part.samples[i].prompt == store.samples[i + 2].prompt
        assert part.samples[i].seed == store.samples[i + 2].seed
        assert part.thumbnail(i) == store.thumbnail(i + 2)
    assert part.provenance["subset_of"] == store.digest
    assert verify(part.path).good


@pytest.mark.parametrize("copy", [subset, lambda path, *rest, **named: merge([path], *rest, **named)])
def test_a_stopped_copy_goes_on_by_the_same_call_and_no_other_does(tmp_path, copy):
    store, out = fakes.make(tmp_path / "all", 20, shard_samples=4), tmp_path / "out"
    other = fakes.make(tmp_path / "other", 20, provenance={"system": "fake", "seed": 1}, shard_samples=4)
    whole = copy(store.path, tmp_path / "whole")
    done = []

    def stop(images, total):
        done.append(images)
        if images >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(store.path, out, progress=stop)
    written = {path: path.stat().st_mtime_ns for path in (out / "shards").rglob("*.h5")}
    assert written
    with pytest.raises(StoreError, match="out holds a copy of other stores; choose another folder"):
        copy(other.path, out)
    assert copy(store.path, out).digest == whole.digest
    assert fakes.contents(out) == fakes.contents(whole.path)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert copy(store.path, out).digest == whole.digest  # a finished one is left as it is
    with pytest.raises(StoreError, match="out holds a copy of other images"):
        subset(store.path, out, samples=range(3))


def test_a_subset_with_other_settings_does_not_go_into_the_one_that_is_there(tmp_path):
    store = fakes.make(tmp_path / "all", 6)
    subset(store.path, tmp_path / "part", steps=[1])
    with pytest.raises(StoreError, match="begun with other settings: steps was"):
        subset(store.path, tmp_path / "part", steps=[0])


def test_a_subset_may_change_the_number_format(tmp_path):
    store = fakes.make(tmp_path / "all", 6)
    part = subset(store.path, tmp_path / "part", dtype="int8")
    exact, rough = store["mid.0"].read(3), part["mid.0"].read(3)
    assert not np.array_equal(exact, rough)
    assert (np.abs(exact - rough) <= 0.51 / 127 * np.abs(exact).max(-1, keepdims=True)).all()


def test_a_store_without_thumbnails_says_so(tmp_path):
    kind = fakes.schema()
    with Writer(tmp_path / "s", kind) as writer:
        writer.append([fakes.sample(0)], fakes.updates(kind, 0))
    store = Store.open(tmp_path / "s")
    with pytest.raises(StoreError, match="without thumbnails"):
        store.thumbnail(0)
    assert subset(store.path, tmp_path / "t").thumbnail_or_empty(0) == b""
