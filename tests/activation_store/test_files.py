"""Whole files or none; strict JSON."""

import ctypes
import json
import mmap
import os

import pytest

from activation_store import StoreError, files, publish_file, publish_folder, read_json, write_json
from activation_store.entries import shard_files
from activation_store.files import digest, parse_json, sweep, write_text
from tests.activation_store import fakes


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(tmp_path):
    value = {"text": "é <b>", "numbers": [1, 2.5, -3e10], "nothing": None, "deep": {"er": [True, False]}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert names(tmp_path) == ["a.json"]


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a", "old")

    def broken():
        with publish_file(tmp_path / "a") as temporary:
            temporary.write_text("half of the n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def broken(**options):
        with publish_folder(tmp_path / "f", **options) as temporary:
            (temporary / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert names(tmp_path) == []
    with publish_folder(tmp_path / "f") as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "x").write_text("1")
        assert not (tmp_path / "f").exists()
    with pytest.raises(StoreError, match="exists already"), publish_folder(tmp_path / "f"):
        pass
    with pytest.raises(ZeroDivisionError):
        broken(replace=True)
    assert (tmp_path / "f" / "sub" / "x").read_text() == "1"
    with publish_folder(tmp_path / "f", replace=True) as temporary:
        (temporary / "y").write_text("2")
    assert names(tmp_path) == ["f"]
    assert names(tmp_path / "f") == ["y"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, {"a": b"x"}])
def test_what_is_no_json_is_not_written(tmp_path, value):
    with pytest.raises(StoreError, match="not JSON"):
        write_json(tmp_path / "a.json", {"value": value})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"NaN",
        b"[Infinity]",
        b"1e999",
        b"[" * 100_000,
        b'{"a": 1, "a": 2}',
        b'"\xff"',
        b"1 2",
        b"\x00",
    ],
)
def test_what_is_no_strict_json_is_refused(tmp_path, text):
    with pytest.raises(StoreError, match="is not valid JSON"):
        parse_json(text, "it")
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(StoreError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_large_json_is_refused_before_it_is_parsed(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps("x" * 1000))
    with pytest.raises(StoreError, match="over 1,000 bytes"):
        read_json(tmp_path / "a.json", limit=1000)
    assert read_json(tmp_path / "a.json", limit=1002) == "x" * 1000


def test_digests_of_bytes_and_of_files_agree(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(b"abc") == digest(tmp_path / "a") == digest(memoryview(b"abc")) == known


def test_sweeping_removes_the_leavings_of_one_writer_only(tmp_path):
    for tag in ("one", "two"):
        (tmp_path / f".x.h5.0123456789ab~{tag}.tmp").write_text("")
    (tmp_path / "x.tmp").write_text("")
    assert sweep(tmp_path, "one") == [".x.h5.0123456789ab~one.tmp"]
    assert names(tmp_path) == [".x.h5.0123456789ab~two.tmp", "x.tmp"]
    sweep(tmp_path)
    assert names(tmp_path) == ["x.tmp"]


def in_memory(path):
    """How many pages of a file the system keeps."""
    size, page = path.stat().st_size, mmap.PAGESIZE
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
        kept, first = (ctypes.c_ubyte * -(-size // page))(), ctypes.c_ubyte.from_buffer(mapped)
        place = ctypes.c_void_p(ctypes.addressof(first))
        done = ctypes.CDLL(None).mincore(place, ctypes.c_size_t(size), kept)
        del first
    assert done == 0
    return sum(each & 1 for each in kept)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="no such advice")
def test_shards_that_are_written_leave_memory_to_others(tmp_path):
    """Of a collection of terabytes the page cache would hold what nobody reads soon, and nothing else."""
    (probe := tmp_path / "probe").write_bytes(bytes(1 << 20))
    files.fsync(probe)
    assert in_memory(probe) == (1 << 20) // mmap.PAGESIZE
    files.leave_page_cache(probe)
    if in_memory(probe):
        pytest.skip("files of this folder lie in memory")
    fakes.make(tmp_path / "store", 8)
    assert {in_memory(path) for path in shard_files(tmp_path / "store")} == {0}
