"""Stores read from a URL: from fsspec's file system in memory, and over HTTP from a server that counts."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest

from activation_store import ShardCache, Store, StoreError, join_stores, remote_store, subset
from activation_store.batches import Window
from activation_store.commit_log import CommitLog, log_path
from activation_store.entries import Entry
from activation_store.files import digest, write_json
from activation_store.locks import lock
from activation_store.schema import Schema
from activation_store.store_statistics import LogStatistics
from tests.activation_store import fakes

IMAGES = 40  # ten shards


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(remote_store, "PAUSES", (0.0, 0.0))


class Files(SimpleHTTPRequestHandler):
    """A folder over HTTP; remembers what was asked for, and fails or spoils what a test says."""

    asked: list[str]
    failing: list[str]
    spoilt: set[str]
    index = True
    root: Path

    def do_GET(self):
        self.asked.append(self.path)
        if self.path in self.failing:
            self.failing.remove(self.path)
            self.send_error(503)
        elif self.path in self.spoilt:
            data = bytearray(Path(self.translate_path(self.path)).read_bytes())
            data[len(data) // 2] ^= 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        else:
            super().do_GET()

    def list_directory(self, path):
        return super().list_directory(path) if self.index else self.send_error(404)

    def log_message(self, *_):
        """Quiet."""

    @property
    def shards(self):
        return [path for path in self.asked if path.endswith(".h5")]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return fakes.make(tmp_path_factory.mktemp("made") / "acts", IMAGES)


@pytest.fixture
def server(local):
    kind = type("FilesOf", (Files,), {"asked": [], "failing": [], "spoilt": set()})
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory=local.path.parent))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    kind.root = local.path.parent
    kind.url = f"http://127.0.0.1:{web.server_port}/acts"
    yield kind
    web.shutdown()
    web.server_close()


def shards_asked(server):
    return [path for path in server.asked if path.endswith(".h5")]


def cache_bytes(folder):
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".h5", ".incoming"))


@pytest.fixture
def cache(tmp_path, local):
    """Room for four of the ten shards."""
    return ShardCache(tmp_path / "cache", 4 * max(entry.bytes for entry in local.entries) + 100)


@pytest.mark.parametrize("index", [True, False])
def test_opening_and_statistics_fetch_no_shard(server, local, cache, index):
    server.index = index
    store = Store.open(server.url, cache)
    assert (store.digest, len(store), store.blocks) == (local.digest, IMAGES, local.blocks)
    for block in store.blocks:
        np.testing.assert_array_equal(store[block].moments.mean, local[block].moments.mean)
    assert store.path == server.url
    assert store.missing(IMAGES + 2) == [(IMAGES, IMAGES + 2)]
    assert not shards_asked(server)
    assert len(server.asked) <= 8


def test_what_is_read_is_what_was_written_and_each_shard_is_fetched_once(server, local, cache):
    store = Store.open(server.url, ShardCache(cache.folder, 1 << 30))
    for i in (0, 17, 39, 3):
        truth = fakes.updates(local.schema, i)
        for block in store.blocks:
            np.testing.assert_allclose(store[block].read(i), truth[block][0], rtol=1e-3, atol=1e-2)
        assert store.samples[i] == fakes.sample(i)
        assert store.thumbnail(i) == fakes.thumbnail(i)
    assert len(shards_asked(server)) == len(set(shards_asked(server))) == 3
    again = Store.open(server.url, ShardCache(cache.folder, 1 << 30))
    np.testing.assert_array_equal(again["mid.0"].read(17), local["mid.0"].read(17))
    assert len(shards_asked(server)) == 3  # another store object, the same cache


def test_an_epoch_fetches_each_shard_once_within_the_bound(server, cache, monkeypatch, tmp_path):
    """With room for four of ten shards, of four chunks each. Every row comes once; a cursor goes on."""
    monkeypatch.setattr("activation_store.shard.CHUNK_BYTES", 4096)  # an image each
    local = fakes.make(server.root / "cut", IMAGES, blocks={"up.1.0": (32, 32, 4)})
    room = 4 * max(entry.bytes for entry in local.entries) + 100
    cache = ShardCache(cache.folder, room)
    store, most = Store.open(server.url.replace("acts", "cut"), cache), []
    plain = ShardCache.holding
    monkeypatch.setattr(
        ShardCache,
        "holding",
        lambda self, *given: most.append(cache_bytes(self.folder)) or plain(self, *given),
    )
    cache.folder.mkdir()
    rows, small = store["up.1.0"], {"pool_bytes": 20_000}
    assert len(rows.units()) == IMAGES
    batches = list(rows.batches(4096, seed=3, **small))
    assert sorted(map(bytes, np.concatenate(batches))) == sorted(
        map(bytes, np.concatenate(list(local["up.1.0"].batches(4096))))
    )
    assert len(shards_asked(server)) == 10
    assert max(most) <= cache.limit
    going = rows.batches(4096, seed=3, **small)
    first = [next(going) for _ in range(17)]
    rest = list(rows.batches(4096, seed=3, cursor=going.cursor, **small))
    np.testing.assert_array_equal(np.concatenate(first + rest), np.concatenate(batches))


def test_two_ranks_share_an_epoch(server, local, cache):
    rows = Store.open(server.url, cache)["mid.0"]
    parts = [np.concatenate(list(rows.batches(9, seed=1, rank=rank, world=2))) for rank in (0, 1)]
    whole = np.concatenate(list(local["mid.0"].batches(9)))
    assert sorted(map(bytes, np.concatenate(parts))) == sorted(map(bytes, whole))
    assert min(map(len, parts)) > len(whole) // 3


def test_a_window_reads_few_shards_at_a_time_and_mixes_them():
    """200,000 shards of four chunks: a shard's chunks are read while 32 others are; the order is random."""
    count, each, length = 200_000, 4, 32
    window = Window(np.repeat(np.arange(count), each), length)
    order = window.order(np.random.default_rng(0))
    assert np.array_equal(np.sort(order), np.arange(count * each))
    places = np.empty(len(order), int)
    places[order] = np.arange(len(order))
    spread = np.ptp(places.reshape(count, each), axis=1)
    assert spread.max() <= (length + 8) * each  # as long as it is needed, in chunks
    assert np.median(spread) > length * each / 3
    assert not np.array_equal(order, window.order(np.random.default_rng(1)))
    following = np.diff(order // each) == 0
    assert following.mean() < 0.1  # neighbours are of other shards


def test_a_sample_comes_from_few_shards(server, local, cache, monkeypatch):
    monkeypatch.setattr("activation_store.rows.SHARDS_SAMPLED", 2)
    rows = Store.open(server.url, cache)["up.1.0"]
    some = rows.sample(60, seed=1)
    assert some.shape == (60, 4)
    assert len(shards_asked(server)) <= 2
    assert set(map(bytes, some)) <= set(map(bytes, local["up.1.0"].sample(10**6)))
    assert len(rows.sample(10**6)) == len(local["up.1.0"])


def test_what_comes_damaged_is_refused_and_what_fails_is_tried_again(server, local, cache):
    bad, flaky = (f"/acts/shards/00000/{local.entries[k].name}" for k in (0, 1))
    server.spoilt, server.failing = {bad}, [flaky, flaky]
    store = Store.open(server.url, cache)
    with pytest.raises(StoreError, match=r"shard 000000000-000000004.h5 is not what the log says"):
        store["mid.0"].read(0)
    assert not list(cache.folder.glob("*.h5"))
    np.testing.assert_array_equal(store["mid.0"].read(4), local["mid.0"].read(4))
    assert server.asked.count(flaky) == 3
    server.failing += [bad] * 9
    with pytest.raises(StoreError, match=r"0-000000004.h5 of http://.* cannot be read: 503"):
        store["mid.0"].read(0)


def test_a_shard_that_is_cut_off_in_the_cache_is_fetched_again(server, local, cache):
    Store.open(server.url, cache)["mid.0"].read(0)
    (kept,) = cache.folder.glob("*.h5")
    kept.write_bytes(kept.read_bytes()[:-7])
    np.testing.assert_array_equal(Store.open(server.url, cache)["mid.0"].read(0), local["mid.0"].read(0))


def test_places_without_a_store_and_protocols_that_are_not_known_are_named(server, cache, monkeypatch):
    for url, message in (
        (f"{server.url}-none", "there is no activation store at http"),
        ("memory://nothing", "there is no activation store at memory://nothing"),
        ("nonsense://bucket/acts", "nonsense://bucket/acts cannot be read: .*nonsense"),
    ):
        with pytest.raises(StoreError, match=message):
            Store.open(url, cache)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(StoreError, match="needs fsspec: pip install fsspec"):
        Store.open("s3://bucket/acts", cache)


def test_other_protocols_other_calls_and_old_stores(local, cache, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.put(str(local.path), "/acts", recursive=True)
    store = Store.open("memory://acts", cache)
    assert store.digest == local.digest
    assert subset("memory://acts", tmp_path / "part", blocks=["mid.0"], samples=slice(2, 11)).blocks == (
        "mid.0",
    )
    rows = join_stores(["memory://acts", local.path])["mid.0"]
    assert len(np.concatenate(list(rows.batches(64)))) == 2 * len(local["mid.0"])
    flat = Store.open(f"file://{local.path}", cache)
    np.testing.assert_array_equal(flat["mid.0"].read(5), local["mid.0"].read(5))
    memory.rm("/acts", recursive=True)


def read_in_process(url, folder, limit, seed, out):
    """Read an epoch; the sum of all rows."""
    remote_store.PAUSES = (0.0, 0.0)
    rows = Store.open(url, ShardCache(folder, limit))["mid.0"]
    total = sum(float(batch.sum(dtype=np.float64)) for batch in rows.batches(16, seed=seed, pool_bytes=800))
    out.put(total)


def test_processes_share_a_cache(server, local, cache):
    """Two at once, with room for four shards: what each reads is right, the folder never over its bound."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    given = [(server.url, cache.folder, cache.limit, seed, out) for seed in range(2)]
    processes = [context.Process(target=read_in_process, args=each) for each in given]
    cache.folder.mkdir()
    for process in processes:
        process.start()
    most = 0
    while any(process.is_alive() for process in processes):
        with lock(cache.folder / "cache.lock", wait=True):  # none is removed while they are counted
            most = max(most, sum(sizes(cache.folder).values()))
        time.sleep(0.001)
    truth = float(np.concatenate(list(local["mid.0"].batches(64))).sum(dtype=np.float64))
    assert [out.get(timeout=10) for _ in processes] == pytest.approx([truth] * 2)
    assert 0 < most <= cache.limit
    assert all(process.exitcode == 0 for process in processes)


def sizes(folder):
    """Bytes by file: one that is renamed meanwhile is one."""
    found = {}
    for place in os.scandir(folder):
        if place.name.endswith((".h5", ".incoming")):
            try:
                status = os.stat(place.path)
            except FileNotFoundError:
                continue
            found[status.st_ino] = status.st_size
    return found


KILLED = """
import sys, time
from pathlib import Path
from activation_store import ShardCache
from activation_store.entries import Entry
def slow(path):
    path.write_bytes(b"x" * 100)
    print("begun", flush=True)
    time.sleep(60)
with ShardCache(Path(sys.argv[1]), 1000).holding(Entry(0, 1, 600, "a" * 64, ""), slow):
    pass
"""


def test_what_a_killed_process_was_fetching_takes_no_room(tmp_path):
    cache, data = ShardCache(tmp_path, 1000), b"y" * 500
    entry = Entry(4, 5, 500, digest(data), "")

    def read():
        with cache.holding(entry, lambda path: path.write_bytes(data)):
            pass

    command = [sys.executable, "-c", KILLED, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        waiting = threading.Thread(target=read)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()  # 600 of 1000 bytes are spoken for
        process.kill()
    waiting.join(10)
    assert not waiting.is_alive()
    assert cache.holds(entry)
    assert not list(tmp_path.glob("*.incoming"))


def test_the_shard_that_was_used_longest_ago_goes_and_one_that_is_read_stays(tmp_path):
    cache, files = ShardCache(tmp_path, 1000), {}
    for number, letter in enumerate("abcd"):
        data = letter.encode() * 300
        entry = Entry(number, number + 1, 300, digest(data), "")
        files[letter] = entry, (lambda path, data=data: path.write_bytes(data))
    for letter in "abc":
        with cache.holding(*files[letter]):
            pass
    with cache.holding(*files["a"]):  # which is then the one that was used longest ago
        for letter in "bcd":
            with cache.holding(*files[letter]):
                pass
        assert [cache.holds(files[letter][0]) for letter in "abcd"] == [True, False, True, True]
    with pytest.raises(StoreError, match=r"has 1,001 bytes, and the cache at .* is of 1,000"):
        with cache.holding(Entry(0, 1, 1001, "f" * 64, ""), None):
            pass


def test_a_store_goes_to_another_process(server, local, cache):
    rows = pickle.loads(pickle.dumps(Store.open(server.url, cache)["mid.0"]))
    assert rows.moments.count == local["mid.0"].moments.count
    np.testing.assert_array_equal(rows.read(3), local["mid.0"].read(3))
    alone = pickle.loads(pickle.dumps(local["mid.0"]))
    np.testing.assert_array_equal(alone.read(3), local["mid.0"].read(3))


def test_a_variable_says_where_and_how_much(tmp_path, monkeypatch):
    monkeypatch.setenv("UNBOX_SHARD_CACHE", str(tmp_path))
    monkeypatch.setenv("UNBOX_SHARD_CACHE_GB", "1.5")
    assert ShardCache() == ShardCache(tmp_path, 1_500_000_000)
    monkeypatch.setenv("UNBOX_SHARD_CACHE_GB", "lots")
    with pytest.raises(StoreError, match="UNBOX_SHARD_CACHE_GB = 'lots': should be a number of GB"):
        ShardCache()


@pytest.mark.parametrize("count", [3000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_opening_many_shards_is_a_few_requests(tmp_path, count, monkeypatch):
    """Settings, log and sums, once each, and a listing: whatever the number of shards."""
    kind = Schema({"mid.0": (1, 1, 8)}, (0,), ("cond",), shard_samples=4)
    entries = [Entry(4 * k, 4 * k + 4, 4096, f"{k:064x}", f"{k:064x}") for k in range(count)]
    log = CommitLog(log_path(tmp_path, 0), kind)
    log.replace(entries, {})
    statistics = LogStatistics(kind)
    for entry in entries:
        statistics.add(entry, statistics.sums)
    statistics.write(tmp_path / "statistics-00000.bin", "")
    write_json(tmp_path / "store.json", kind.to_file())
    memory, asked = fsspec.filesystem("memory"), []
    memory.put(str(tmp_path), "/many", recursive=True)
    for name in ("ls", "get_file"):
        plain = getattr(type(memory), name)

        def counted(self, path, *given, plain=plain, **named):
            asked.append(path)
            return plain(self, path, *given, **named)

        monkeypatch.setattr(type(memory), name, counted)
    store = Store.open("memory://many", ShardCache(tmp_path / "cache", 1 << 20))
    assert len(store) == 4 * count
    assert store["mid.0"].moments.count == 0
    assert len(asked) <= 5
    memory.rm("/many", recursive=True)
