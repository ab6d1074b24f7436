"""Damaged and hostile files are refused with a clear error; what is not refused reads right."""

import json
import os
import shutil
import zlib

import h5py
import numpy as np
import pytest

from activation_store import Store, StoreError, digest, repair, verify
from activation_store.commit_log import CommitLog, log_path
from activation_store.entries import Entry
from activation_store.samples import prompts_digest
from activation_store.shard import layout, open_shard
from tests.activation_store import fakes

SMALL = {"blocks": {"mid.0": (1, 1, 2)}, "steps": (0,), "branches": ("cond",), "shard_samples": 2}


@pytest.fixture
def store(tmp_path):
    return fakes.make(tmp_path / "store", 10)


@pytest.fixture
def small(tmp_path):
    return fakes.make(tmp_path / "small", 2, **SMALL)


def shard_path(store, number=0):
    return store.path / "shards" / "00000" / store.entries[number].name


def bless(store, number=0):
    """Make the manifest vouch for whatever the shard's file now is, as an attacker would."""
    path, entry = shard_path(store, number), store.entries[number]
    prompts = prompts_digest([fakes.sample(i) for i in range(entry.start, entry.stop)])
    blessed = Entry(entry.start, entry.stop, path.stat().st_size, digest(path), prompts)
    others = [other for other in store.entries if other != entry]
    CommitLog(log_path(store.path, 0), store.schema).replace([blessed, *others], {})
    return Store.open(store.path)


@pytest.mark.parametrize("stride", [31, pytest.param(1, marks=pytest.mark.slow)])
def test_no_flipped_byte_is_read_wrongly_and_each_is_found(small, stride):
    """Reading refuses it, or it does not matter (unused space); the digest that verify compares always
    differs.
    """
    path, whole, truth = shard_path(small), shard_path(small).read_bytes(), raw(small)
    refused = 0
    places = range(0, len(whole), stride)
    for at in places:
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        assert digest(path) != small.entries[0].digest
        found = outcome(lambda: raw(small))
        assert found == truth or "is damaged" in found, f"byte {at} was read wrongly"
        given = outcome(lambda: rows(small))
        assert given == truth[-2:] or "is damaged" in given, f"byte {at} was read wrongly by rows"
        refused += found != truth
    assert refused > len(places) / 4
    path.write_bytes(whole)
    assert raw(small) == truth


def raw(store):
    """The bytes of every dataset of the first shard, opened and checked anew, and of the rows that a reader
    gets.
    """
    with open_shard(shard_path(store), store.schema, store.entries[0]) as file:
        by_hdf5 = [file[name][()].tobytes() for name in layout(store.schema, 2)]
    return [*by_hdf5, *rows(store)]


def rows(store):
    """The rows that a reader gets."""
    return [Store.open(store.path)["mid.0"].read(i).tobytes() for i in (0, 1)]


def outcome(function):
    """What `function` gives, or the message of the error it ends with."""
    try:
        return function()
    except StoreError as error:
        return str(error)


def test_every_flipped_bit_changes_the_digest_that_verify_compares(small):
    """verify() compares SHA-256 of the whole file: one flip anywhere, in unused space too, is found."""
    path, whole = shard_path(small), shard_path(small).read_bytes()
    for at in (0, 9, 500, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x80]) + whole[at + 1 :])
        assert [finding.file for finding in verify(small.path).findings] == [f"shards/{path.name}"]


@pytest.mark.parametrize("length", [0, 1, 8, 100, 1000, -1])
def test_truncated_and_lengthened_shards_are_refused(store, length):
    path, whole = shard_path(store), shard_path(store).read_bytes()
    for bad in (whole[:length], whole + b"\0"):
        path.write_bytes(bad)
        with pytest.raises(StoreError, match=r"is damaged: it has .* bytes instead of"):
            store["mid.0"].read(0)
        assert np.isfinite(store["mid.0"].read(5)).all()


def test_every_flipped_byte_of_a_log_is_refused_or_harmless(small):
    statistics = small.path / "statistics-00000.bin"
    for path in (log_path(small.path, 0), small.path / "store.json", statistics):
        whole = path.read_bytes()
        for at in range(0, len(whole), 1 if path != statistics else 97):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 7)]) + whole[at + 1 :])
            try:
                found = Store.open(small.path)
                found.samples[0]
            except (StoreError, IndexError):
                continue
            # What still opens must hold the very same rows: only free text, or a digest, was touched.
            assert found["mid.0"].read(0).tobytes() == small["mid.0"].read(0).tobytes()
            assert np.array_equal(found["mid.0"].moments.mean, small["mid.0"].moments.mean)
        path.write_bytes(whole)
    assert verify(small.path).good


def test_missing_extra_and_renamed_shards(store):
    first, second = shard_path(store, 0), shard_path(store, 1)
    shutil.copy(second, second.with_name("000000100-000000104.h5"))
    os.rename(first, first.with_name("000000200-000000204.h5"))
    with pytest.raises(StoreError, match=f"{first.name} is missing"):
        store["mid.0"].read(0)
    report = verify(store.path)
    assert {finding.file for finding in report.findings} == {
        f"shards/{first.name}",
        "shards/000000100-000000104.h5",
        "shards/000000200-000000204.h5",
    }
    assert report.missing == ((0, 4),)
    repaired = repair(store.path)
    assert repaired.images == 6
    assert repaired.missing == ((0, 4),)
    assert sorted(path.name for path in (store.path / "damaged").iterdir()) == [
        "000000100-000000104.h5",
        "000000200-000000204.h5",
    ]
    assert verify(store.path).good
    assert fakes.make(store.path, 10).digest == store.digest


def replaced(name, **creation):
    """A change of a shard: dataset `name` made anew with other creation settings and the same data."""

    def change(file, folder):
        data = file[name][()]
        del file[name]
        plain = {"data": data, "chunks": data.shape, "fletcher32": True}
        file.create_dataset(name, **{**plain, **creation})

    return change


def external(file, folder):
    shape, dtype = file["mid.0/values"].shape, file["mid.0/values"].dtype
    (folder / "secret").write_bytes(b"secret" * 1000)
    del file["mid.0/values"]
    file.create_dataset(
        "mid.0/values", shape, dtype, external=[(str(folder / "secret"), 0, h5py.h5f.UNLIMITED)]
    )


def virtual(file, folder):
    shape, dtype = file["mid.0/values"].shape, file["mid.0/values"].dtype
    layout = h5py.VirtualLayout(shape, dtype)
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", shape)
    del file["mid.0/values"]
    file.create_virtual_dataset("mid.0/values", layout)


def external_link(file, folder):
    del file["samples"]
    file["samples"] = h5py.ExternalLink(str(folder / "other.h5"), "x")


def soft_link(file, folder):
    del file["mid.0/mean"]
    file["mid.0/mean"] = h5py.SoftLink("/mid.0/m2")


def group_for_dataset(file, folder):
    del file["samples"]
    file.create_group("samples")


def bomb(file, folder):
    del file["mid.0/values"]
    file.create_dataset("mid.0/values", (10**5,) * 3, "<f2", chunks=(1, 64, 64), fletcher32=True)


def blob_bomb(file, folder):
    del file["thumbnails"]
    file.create_dataset("thumbnails", (10**15,), "u1", chunks=(1 << 20,), fletcher32=True)


HOSTILE = {
    "external storage": (external, "elsewhere"),
    "virtual": (virtual, "elsewhere"),
    "external link": (external_link, "link to elsewhere"),
    "soft link": (soft_link, "link to elsewhere"),
    "group": (group_for_dataset, "not a dataset"),
    "shape bomb": (bomb, "has shape"),
    "blob bomb": (blob_bomb, "not all there"),
    "extra": (lambda file, folder: file.create_dataset("more", data=1), "where .* should be"),
    "extra group": (lambda file, folder: file.create_group("mid.0/more"), "where .* should be"),
    "missing": (lambda file, folder: file.__delitem__("mid.0/m2"), "where .* should be"),
    "type": (replaced("mid.0/mean", dtype="<f4"), "has type float32"),
    "strings": (
        replaced("samples_ends", data=[b"x"] * 4, dtype=h5py.string_dtype(), fletcher32=False, chunks=(4,)),
        "has type",
    ),
    "filter": (replaced("mid.0/mean", compression="gzip"), "exactly the checksum"),
    "no checksum": (replaced("mid.0/mean", fletcher32=False), "exactly the checksum"),
    "growing": (replaced("mid.0/mean", maxshape=(None, None, None)), "has shape"),
    "not chunked": (replaced("mid.0/mean", chunks=None, fletcher32=False), "not chunked"),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_hdf5_is_refused_whatever_the_manifest_says(store, attack, tmp_path):
    change, message = HOSTILE[attack]
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.zeros(4)
    with h5py.File(shard_path(store), "r+", libver=("v110", "v110")) as file:
        change(file, tmp_path)
    found = bless(store)
    for read in (
        lambda: found["mid.0"].read(0),
        lambda: found.samples[0],
        lambda: list(found["mid.0"].batches(9)),
    ):
        with pytest.raises(StoreError, match=message):
            read()
    assert not verify(store.path).good
    assert repair(store.path).images == 6


def test_a_link_in_the_place_of_a_shard_is_not_followed(store):
    path = shard_path(store)
    shutil.move(path, path.with_name("kept"))
    path.symlink_to("kept")
    with pytest.raises(StoreError, match="not a regular file"):
        store["mid.0"].read(0)


@pytest.mark.parametrize(
    ("ends", "message"),
    [([9, 5, 9, 9], "do not fit"), ([-1, 2, 3, 4], "do not fit"), ([1, 2, 3, 2**60], "do not fit")],
)
def test_blobs_whose_ends_do_not_fit_are_refused(store, ends, message):
    with h5py.File(shard_path(store), "r+", libver=("v110", "v110")) as file:
        file["samples_ends"][:] = ends
    with pytest.raises(StoreError, match=message):
        bless(store).samples[0]


@pytest.mark.parametrize("record", [b'{"index": 0}', b"[1]", b"NaN", b'{"a":' * 5000, b"\xff"])
def test_records_that_are_no_samples_are_refused(store, record):
    with h5py.File(shard_path(store), "r+", libver=("v110", "v110")) as file:
        del file["samples"]
        blob = np.frombuffer(record * 4, np.uint8)
        file.create_dataset("samples", data=blob, chunks=blob.shape, fletcher32=True)
        file["samples_ends"][:] = [len(record) * n for n in (1, 2, 3, 4)]
    with pytest.raises(StoreError, match=r"not a sample's record|not valid JSON"):
        bless(store).samples[0]


def edit_json(path, **changes):
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, **changes}))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("store.json", {"version": 3}, "use a newer one"),
        ("store.json", {"format": "tar"}, "is not of an unbox activation store"),
        ("store.json", {"dtype": "float4"}, "float4"),
        ("store.json", {"blocks": {"mid.0": [10**12, 1, 1]}}, "not a size"),
        ("store.json", {"blocks": "mid.0"}, "malformed"),
        ("store.json", {"surprise": 1}, "malformed"),
        ("store.json", {"steps": [0]}, "belongs to another store"),
    ],
)
def test_settings_that_cannot_be_are_refused(store, name, changes, message):
    edit_json(store.path / name, **changes)
    with pytest.raises(StoreError, match=message):
        Store.open(store.path)


def line(value):
    """A line of a log, with its checksum."""
    text = json.dumps(value).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


GOOD = [0, 4, 10**9, "a" * 64, "b" * 64]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ({"version": 3}, [], "version 3"),
        ({"format": "x"}, [], "is not a log"),
        ({"schema": "0" * 64}, [], "belongs to another store"),
        ({}, [7], "malformed"),
        ({}, [[0, 4, 10**9, "a" * 64]], "malformed"),
        ({}, [[0, 4, 10**9, "../../x", "b" * 64]], "malformed"),
        ({}, [[-4, 0, 10**9, "a" * 64, "b" * 64]], "malformed"),
        ({}, [[*GOOD, {"layout": 3}]], "malformed"),
        ({}, [[*GOOD, {"name": "../x"}]], "malformed"),
        ({}, [[*GOOD, {"absent": [[9, "why"]]}]], "malformed"),
        ({}, [[*GOOD, {"absent": [[1, "why"], [1, "why"]]}]], "malformed"),
        ({}, [[*GOOD, {"absent": 1}]], "malformed"),
        ({}, [[*GOOD, {"absent": [[1, 2]]}]], "malformed"),
        ({}, [[*GOOD, {}, {}]], "malformed"),
        ({}, [[0, 4, 10, "a" * 64, "b" * 64]], "it cannot be"),
        ({}, [[0, 10**9, 10**12, "a" * 64, "b" * 64]], "it cannot be"),
        ({}, [GOOD, [2, 4, 10**9, "a" * 64, "b" * 64]], "overlap"),
    ],
)
def test_logs_that_cannot_be_are_refused(store, header, rows, message):
    path = log_path(store.path, 0)
    first = json.loads(path.read_bytes().split(b"\n")[0][9:])
    path.write_bytes(b"".join(map(line, [{**first, **header}, *rows])))
    with pytest.raises(StoreError, match=message):
        Store.open(store.path)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"format": NaN}', '{"a": 1, "a": 2}\n', "\x00\n\n"]
)
@pytest.mark.parametrize("checked", [False, True])
def test_a_log_that_is_none_is_refused_and_repaired_from_the_shards(store, text, checked):
    data = text.encode()
    log_path(store.path, 0).write_bytes(b"%08x %b\n" % (zlib.crc32(data), data) if checked else data)
    with pytest.raises(StoreError, match=r"commits-00000\.log"):
        Store.open(store.path)
    report = repair(store.path)
    assert report.images == 10
    assert Store.open(store.path).digest == store.digest


def test_there_is_no_store_where_there_is_none(tmp_path):
    for path in (tmp_path, tmp_path / "nothing", __file__):
        with pytest.raises(StoreError, match="no activation store at"):
            Store.open(path)
