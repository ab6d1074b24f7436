"""At the size of 1.5 million prompts: operations and bytes are counted, at payloads of a few numbers.

What is counted is the store's own code: commits, logs, sums, plans of reading. Shards' contents are stood in
for: they are the same work for each shard, whatever the store's size.
"""

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from activation_store import Sample, Schema, Store, Writer, files, shards
from activation_store.commit_log import CommitLog, log_path
from activation_store.entries import IN_FOLDER, Entry, shard_place
from activation_store.listing import Listing
from activation_store.moments import moments_of
from activation_store.shard_publisher import ShardPublisher
from activation_store.store_statistics import EVERY

#: Images in a shard; vectors of 8 numbers, one an image.
IN_SHARD = 4


def schema():
    return Schema({"mid.0": (1, 1, 8)}, (0,), ("cond",), shard_samples=IN_SHARD)


def entry(number, samples=IN_SHARD):
    start = number * IN_SHARD
    return Entry(start, start + samples, 4096, f"{number:064x}", f"{number:064x}")


class Counted:
    """Calls of the operating system, and the bytes that are written, by the name of the file's kind."""

    def __init__(self, monkeypatch):
        self.calls, self.bytes = {}, {"commits": 0, "statistics": 0}
        plain = {name: getattr(os, name) for name in ("write", "replace", "open", "lstat")}

        def count(name, *given, **named):
            self.calls[name] = self.calls.get(name, 0) + 1
            return plain[name](*given, **named)

        def write(descriptor, data):
            self.bytes["commits"] += len(data)
            return count("write", descriptor, data)

        whole = files.write_bytes

        def write_bytes(path, data, tag=""):
            self.bytes[Path(path).name.split("-")[0]] += len(data)
            return whole(path, data, tag)

        monkeypatch.setattr(os, "fsync", lambda _: self.calls.update(fsync=self.calls.get("fsync", 0) + 1))
        monkeypatch.setattr(os, "write", write)
        for name in ("replace", "open"):
            monkeypatch.setattr(os, name, lambda *a, name=name, **k: count(name, *a, **k))
        for module in ("commit_log", "store_statistics"):
            monkeypatch.setattr(f"activation_store.{module}.write_bytes", write_bytes)

    def take(self):
        found = {**self.calls, **self.bytes}
        self.calls, self.bytes = {}, dict.fromkeys(self.bytes, 0)
        return found


def commit(folder, count):
    """A log of so many shards, written by a writer's own publisher, one by one."""
    kind = schema()
    folder.mkdir()
    files.write_json(folder / "store.json", kind.to_file())
    publisher = ShardPublisher(folder, kind, 0, Listing((), ()))
    publisher.begin({})
    rows = np.ones((1, 1, IN_SHARD, 8), np.float32)
    moments = {"mid.0": moments_of(rows)}
    for number in range(count):
        publisher._commit(entry(number), moments)
    publisher.write_statistics()


def near(found, wanted, part=0.05):
    return abs(found - wanted) <= part * wanted


SIZES = pytest.mark.parametrize("count", [3000, pytest.param(200_000, marks=pytest.mark.slow)])


@SIZES
def test_commits_are_linear_in_shards(tmp_path, monkeypatch, count):
    """A shard costs one line of at most 200 bytes and one fsync; the sums' file once in 16 shards."""
    counted = Counted(monkeypatch)
    for name, number in (("half", count // 2), ("whole", count)):
        counted.take()
        commit(tmp_path / name, number)
        found = counted.take()
        assert found["write"] == number  # a line each
        assert near(found["fsync"], number * (1 + 2 / EVERY))
        assert found["commits"] <= number * 200 + 1000
        assert near(
            found["statistics"], number / EVERY * (tmp_path / name / "statistics-00000.bin").stat().st_size
        )
    assert (tmp_path / "whole" / "statistics-00000.bin").stat().st_size < 10_000


@pytest.fixture
def store(tmp_path, request):
    """A store of so many shards, as its log and sums say; there are no files of shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        commit(tmp_path / "store", request.param)
    return tmp_path / "store", request.param


BIG = pytest.mark.parametrize("store", [3000, pytest.param(200_000, marks=pytest.mark.slow)], indirect=True)


@BIG
def test_opening_and_statistics_open_no_shard(store, monkeypatch):
    """`unbox store info` reads the log, the sums and the settings, each once."""
    folder, count = store
    monkeypatch.setattr(shards, "open_shard", None)
    counted, read = Counted(monkeypatch), []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or plain(path))
    from unbox.cli.store import describe

    opened = Store.open(folder)
    lines = describe(opened)
    assert f"{count * IN_SHARD:,} images in {count:,} files" in lines[0]
    assert opened["mid.0"].moments.count == count * IN_SHARD
    assert read == ["commits-00000.log", "statistics-00000.bin"]
    assert counted.take().get("open", 0) == 0
    assert opened.missing(count * IN_SHARD + 3) == [(count * IN_SHARD, count * IN_SHARD + 3)]


class Payload:
    """Stands in for opening a shard and reading a chunk; counts both."""

    def __init__(self, monkeypatch):
        self.opened, self.read = [], []  # lists: several threads count
        monkeypatch.setattr(shards.Shards, "chunks", self.chunks)
        monkeypatch.setattr(shards.Shards, "read", self.fill)

    @contextmanager
    def chunks(self, number, once=False):
        self.opened.append(number)
        yield number

    def fill(self, number, group, into):
        self.read.append(number)
        into.values[:] = number % 1000

    def take(self):
        found = len(self.opened), len(self.read)
        self.opened, self.read = [], []
        return found


@BIG
def test_an_epoch_reads_each_chunk_once_and_a_sample_few(store, monkeypatch):
    folder, count = store
    payload = Payload(monkeypatch)
    rows = Store.open(folder)["mid.0"]
    total = sum(map(len, rows.batches(4096, seed=1, pool_bytes=1 << 20)))
    assert total == len(rows) == count * IN_SHARD
    opened, read = payload.take()
    assert opened == read == count
    assert len(rows.sample(1000)) == 1000
    opened, read = payload.take()
    assert opened == read <= 4 * 1000 / IN_SHARD  # four rows read for each that is wanted
    Store.open(folder)["mid.0"].filter(samples=slice(100, 200)).read_images(range(100))
    assert payload.take() == (25, 25)


@BIG
def test_a_writer_that_goes_on_reads_its_log_once_and_opens_no_shard(store, monkeypatch):
    folder, count = store
    monkeypatch.setattr("activation_store.writer.open_shard", None)
    monkeypatch.setattr("activation_store.shard_publisher.open_shard", None)
    counted = Counted(monkeypatch)
    with Writer(folder, schema()) as writer:
        assert len(writer.entries) == count
    assert counted.take()["commits"] <= 100  # versions


@pytest.mark.parametrize(
    ("steps", "total", "images"),
    [(1, None, 408), (1, 1_500_000, 408), (1, 50_000, 192), (1, 1000, 51), (8, 1_500_000, 48), (50, 1000, 8)],
)
def test_shards_fit_the_store(steps, total, images):
    """At real size, 2.6 MB an image and step: 1 GB at most; a 256th of the images, but 128 MB at least."""
    kind = Schema(dict.fromkeys("abcd", (16, 16, 1280)), tuple(range(steps)), ("cond",))
    kind = kind if total is None else kind.sized_for(total)
    assert kind.shard_samples == images - images % 8 if images > 8 else images
    assert kind.shard_samples * kind.sample_bytes <= 1 << 30


def test_a_folder_holds_a_thousand_files(tmp_path):
    places = {shard_place(tmp_path, schema(), entry(k).start, entry(k).name).parent for k in range(5000)}
    assert len(places) == 5000 / IN_FOLDER


def test_a_log_of_a_run_that_is_stopped_and_grows_by_one_shard_at_a_time_stays_linear(tmp_path, monkeypatch):
    """The worst case of superseding: a shard of 64 images is published after each image."""
    counted = Counted(monkeypatch)
    kind = Schema({"mid.0": (1, 1, 8)}, (0,), ("cond",), shard_samples=64)
    for number in range(10):
        for samples in range(1, 65):
            log = (
                CommitLog.read(path, kind)
                if (path := log_path(tmp_path, 0)).exists()
                else CommitLog(path, kind)
            )
            log.begin({})
            one = Entry(64 * number, 64 * number + samples, 4096, "a" * 64, "b" * 64)
            log.append(one)
    assert counted.take()["commits"] <= 640 * 200 * 3
    assert path.stat().st_size <= 200 * (10 + 16 + 64)


def test_what_makes_images_waits_only_when_three_batches_are_not_written(tmp_path, monkeypatch):
    kind = Schema({"mid.0": (4, 4, 8)}, (0,), ("cond",), shard_samples=16)
    some, free, handed = {"mid.0": np.ones(kind.shape("mid.0", 5), np.float16)}, threading.Event(), []
    keep = Writer._keep
    monkeypatch.setattr(
        Writer, "_keep", lambda *work: free.wait(60) and keep(*work)
    )  # a disk that stands still

    def make(writer):
        for first in range(0, 25, 5):
            writer.append([Sample(i, "a", i) for i in range(first, first + 5)], some)
            handed.append(first)

    with Writer(tmp_path, kind) as writer:
        maker = threading.Thread(target=make, args=(writer,))
        maker.start()
        while len(handed) < 3:
            time.sleep(0.001)
        maker.join(0.2)
        assert handed == [0, 5, 10]
        free.set()
        maker.join()
    assert handed == [0, 5, 10, 15, 20]
    assert len(Store.open(tmp_path)) == 25


MEMORY = """
import resource, sys
import numpy as np
from activation_store import Sample, Schema, Writer
kind = Schema({"mid.0": (16, 16, 1280)}, (0,), ("cond",), shard_samples=600)
batch = np.random.default_rng(0).standard_normal((8, 1, 1, 16, 16, 1280)).astype(np.float16)
peaks = []
with Writer(sys.argv[1], kind, total=600) as writer:
    for first in range(0, 600, 8):
        samples = [Sample(i, "a", i) for i in range(first, first + 8)]
        writer.append(samples, {"mid.0": batch.copy()})
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[9], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_writing_a_large_shard_takes_the_memory_of_some_batches(tmp_path):
    """One shard of 393 MB: after the first tenth no more than 64 MB of chunks and some batches are added."""
    words = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    early, peak = map(int, done.stdout.split())
    assert peak - early < 110_000
