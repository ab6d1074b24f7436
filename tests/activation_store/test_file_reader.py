"""Files read past the page cache: the same bytes, and nothing left behind."""

import ctypes
import mmap
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activation_store import file_reader
from activation_store import rows as rows_module
from activation_store.entries import shard_files
from activation_store.file_reader import FileReader
from tests.activation_store import fakes

SIZE = 3 * 4096 + 1234


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file, and its bytes."""
    data = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8).tobytes()
    path = tmp_path_factory.mktemp("source") / "file"
    path.write_bytes(data)
    os.sync()
    return path, data


def no_flag(path, flags, *rest, open=os.open):
    """A system whose files cannot be opened for direct reading."""
    if flags & os.O_DIRECT:
        raise OSError("no O_DIRECT here")
    return open(path, flags, *rest)


def no_read(descriptor, buffers, offset, preadv=os.preadv):
    """A disk that refuses direct reads, as one of larger blocks would."""
    if len(buffers) == 1 and offset % 4096 == 0:
        raise OSError("other blocks")
    return preadv(descriptor, buffers, offset)


@pytest.fixture(params=["past the cache", "cannot open", "cannot read"])
def kind(request, monkeypatch):
    if request.param == "cannot open":
        monkeypatch.setattr(os, "open", no_flag)
    if request.param == "cannot read":
        monkeypatch.setattr(os, "preadv", no_read)
    return request.param


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offset=st.integers(0, SIZE + 10), first=st.integers(0, SIZE + 10), second=st.integers(0, 5))
def test_the_bytes_are_the_files_whatever_is_asked(kind, file, offset, first, second):
    path, data = file
    buffers = [np.full(first, 7, np.uint8), np.full(second, 7, np.uint8)]
    with open(path, "rb") as opened, ExitStack() as stack:
        count = FileReader.read_once(opened.fileno(), stack).read(buffers, offset)
    wanted = data[offset : offset + first + second]
    assert count == len(wanted)
    assert np.concatenate(buffers)[:count].tobytes() == wanted


def test_many_threads_share_the_memory_of_direct_reads(file):
    path, data = file
    rng = np.random.default_rng(1)
    with open(path, "rb") as opened, ExitStack() as stack, ThreadPoolExecutor(12) as threads:
        once = FileReader.read_once(opened.fileno(), stack)

        def right(ends):
            begin, end = sorted(ends)
            out = np.empty(end - begin, np.uint8)
            return once.read([out], begin) == len(out) and out.tobytes() == data[begin:end]

        assert all(threads.map(right, rng.integers(0, SIZE, (2000, 2)).tolist()))
    assert len(file_reader._spare) <= 8


def cached(path):
    """Pages of a file that are in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        pages = -(-len(mapped) // mmap.PAGESIZE)
        present = (ctypes.c_ubyte * pages)()
        view = ctypes.c_char.from_buffer(mapped)
        address = ctypes.c_void_p(ctypes.addressof(view))
        assert libc.mincore(address, ctypes.c_size_t(len(mapped)), present) == 0
        del view
    return sum(page & 1 for page in present), pages


def forget(path):
    with open(path, "rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture
def store(tmp_path):
    """Two shards of 1 MB."""
    made = fakes.make(tmp_path / "store", 8, blocks={"mid.0": (16, 16, 128)})
    forget_all(made)
    return made


def shards(store):
    return shard_files(store.path)


def forget_all(store):
    for path in shards(store):
        forget(path)


def test_one_epoch_leaves_the_page_cache_alone_and_more_fill_it(store, monkeypatch):
    if any(cached(path)[0] for path in shards(store)):
        pytest.skip("this file system's cache cannot be emptied")
    once = [batch.copy() for batch in store["mid.0"].batches(100, seed=3)]
    here, pages = map(sum, zip(*(cached(path) for path in shards(store)), strict=True))
    if here == pages:
        pytest.skip("this file system cannot be read past the cache")
    assert here < pages / 4  # what HDF5 reads to find the chunks
    twice = list(store["mid.0"].batches(100, seed=3, epochs=2))
    here, pages = map(sum, zip(*(cached(path) for path in shards(store)), strict=True))
    assert here > pages * 3 / 4
    assert len(twice) == 2 * len(once)
    for one, other in zip(once, twice, strict=False):
        assert np.array_equal(one, other)
    forget_all(store)
    monkeypatch.setattr(rows_module, "_memory", lambda: 1 << 20)  # a machine too small for these rows
    assert len(list(store["mid.0"].batches(100, seed=3, epochs=2))) == len(twice)
    assert sum(cached(path)[0] for path in shards(store)) < pages / 4


def test_no_file_stays_open(store):
    before = len(os.listdir("/proc/self/fd"))
    for epochs in (1, 2):
        list(store["mid.0"].batches(100, epochs=epochs))
    assert len(os.listdir("/proc/self/fd")) == before
