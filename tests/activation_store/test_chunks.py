"""Chunks read past HDF5: the same bytes, the same checksum."""

import os

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activation_store import compiled_loops
from activation_store.chunks import ChunkIndex, fletcher32, write_chunk
from activation_store.file_reader import FileReader


def hdf5_checksum(folder, data):
    """What HDF5 itself writes behind a chunk of these bytes."""
    with h5py.File(folder / "x.h5", "w") as file:
        dataset = file.create_dataset("x", data=data, chunks=data.shape, fletcher32=True)
        mask, raw = dataset.id.read_direct_chunk((0,))
    assert mask == 0
    assert raw[:-4] == data.tobytes()
    return int.from_bytes(raw[-4:], "little")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("chunks")


@pytest.fixture(params=[True, False], ids=["compiled", "numpy"])
def compiled(request, monkeypatch):
    """Checksums by the compiled loop, and by NumPy."""
    monkeypatch.setattr(compiled_loops, "AVAILABLE", request.param)
    return request.param


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=5000), times=st.integers(1, 40))
def test_the_checksum_is_hdf5s(compiled, folder, data, times):
    data = np.frombuffer(data * times, np.uint8)
    assert fletcher32(data) == hdf5_checksum(folder, data)


@pytest.mark.parametrize("value", [0, 255, 1])
@pytest.mark.parametrize("size", [1, 2, 2047, 2048, 2049, 4096, 1_300_001])
def test_the_checksum_of_constant_bytes_is_hdf5s(compiled, folder, value, size):
    data = np.full(size, value, np.uint8)
    assert fletcher32(data) == hdf5_checksum(folder, data)


@pytest.mark.parametrize("dtype", ["f2", "u2", "f4", "i1"])
@pytest.mark.parametrize(("samples", "together"), [(1, 1), (4, 2), (5, 3), (2, 2)])
def test_chunks_are_written_as_hdf5_writes_them(tmp_path, dtype, samples, together):
    shape = (samples, 2, 3, 1, 5, 7)
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    rule = {"chunks": (together, 1, 1, *shape[3:]), "fletcher32": True, "track_times": False}
    for name in ("theirs", "ours"):
        with h5py.File(tmp_path / name, "w", libver=("v110", "v110")) as file:
            if name == "theirs":
                file.create_dataset("x", data=array, **rule)
            else:
                dataset = file.create_dataset("x", shape, dtype, **rule)
                for first, step, branch in np.ndindex(-(-samples // together), 2, 3):
                    body = np.zeros((together, 1, 1, *shape[3:]), dtype)
                    some = array[first * together : (first + 1) * together, step, branch]
                    body[: len(some), 0, 0] = some
                    chunk = np.concatenate([body.reshape(-1).view(np.uint8), np.zeros(4, np.uint8)])
                    write_chunk(dataset, (first * together, step, branch, 0, 0, 0), chunk)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.fixture
def written(tmp_path):
    """A dataset of two chunks, and its path."""
    data = np.arange(60, dtype=np.float16).reshape(4, 15)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file.create_dataset("x", data=data, chunks=(2, 15), fletcher32=True)
    return tmp_path / "two.h5", data


def read(path, index, out):
    """Read a chunk of /x."""
    with h5py.File(path, "r") as file:
        ChunkIndex.of(file["x"]).read(FileReader(file.id.get_vfd_handle()), index, out)


def test_a_chunk_comes_back_and_one_that_is_not_as_written_is_refused(written):
    path, data = written
    out = np.empty((2, 15), np.float16)
    read(path, (1, 0), out)
    assert np.array_equal(out, data[2:])
    with pytest.raises(OSError, match="no whole, checksummed chunk"):
        read(path, (0, 0), np.empty((2, 14), np.float16))
    with h5py.File(path, "r") as file:
        offset = int(ChunkIndex.of(file["x"]).offsets[1, 0])
    whole = path.read_bytes()
    for at in range(offset, offset + 64):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises(OSError, match="checksum of /x"):
            read(path, (1, 0), out)
    with h5py.File(path, "r") as file:
        places, source = ChunkIndex.of(file["x"]), FileReader(file.id.get_vfd_handle())
        os.truncate(path, offset + 30)
        with pytest.raises(OSError, match="ends within"):
            places.read(source, (1, 0), out)


@pytest.mark.parametrize("creation", [{}, {"compression": "gzip", "fletcher32": True}])
def test_chunks_with_other_filters_are_refused(tmp_path, creation):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=np.zeros(64), chunks=(64,), **creation)
    with pytest.raises(OSError, match="no whole, checksummed chunk"):
        read(tmp_path / "x.h5", (0,), np.empty(64))


def test_a_chunk_that_was_never_written_is_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (128,), "f8", chunks=(64,), fletcher32=True)[:64] = 1
    read(tmp_path / "x.h5", (0,), np.empty(64))
    with pytest.raises(OSError, match="no whole, checksummed chunk"):
        read(tmp_path / "x.h5", (1,), np.empty(64))


def test_a_chunk_whose_checksum_was_left_out_is_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", (64,), "f8", chunks=(64,), fletcher32=True)
        dataset.id.write_direct_chunk((0,), bytes(64 * 8 + 4), filter_mask=1)
    with pytest.raises(OSError, match="no whole, checksummed chunk"):
        read(tmp_path / "x.h5", (0,), np.empty(64))
