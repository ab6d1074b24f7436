"""Training batches: every row exactly once, in an order fixed by the seed, resumable at any row."""

import gc
import json
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from activation_store import Store, StoreError, compiled_loops, shard, shard_writer
from activation_store.batches import Batches, BatchOrder, Pool
from activation_store.chunks import ChunkIndex
from activation_store.number_formats import NUMBER_FORMATS, decode, encode, take
from tests.activation_store import fakes


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return fakes.make(tmp_path_factory.mktemp("store"), 10)["up.1.0"]


def everything(rows):
    return np.concatenate([rows.read(i).reshape(-1, rows.width) for i in range(len(rows.samples))])


def as_set(x):
    """Rows in a canonical order."""
    return x[np.lexsort(x.T)]


def numbers(units, batch_size, *, pool_rows=7, **settings):
    """Batches over rows that are just numbered: unit k holds the next `units[k]` numbers."""
    starts = np.cumsum([0, *units])

    def load(chosen, used):
        if used is not None:
            used.values[:] = -1  # its memory is the loader's to fill again
        parts = [np.arange(starts[k], starts[k + 1], dtype=np.float32) for k in chosen]
        return Pool(np.concatenate(parts)[:, None], None, "float32")

    order, sizes = BatchOrder(batch_size, **settings), {"width": 1, "pool_rows": pool_rows}
    return Batches(order, unit_rows=np.array(units), load=load, identity="x", **sizes)


UNITS = st.lists(st.integers(0, 5), min_size=1, max_size=12).filter(any)


@given(UNITS, st.integers(1, 9), st.integers(1, 20), st.integers(1, 4), st.integers(0, 5))
def test_ranks_together_see_every_row_once_an_epoch(units, batch_size, pool_rows, world, seed):
    settings = {"pool_rows": pool_rows, "world": world, "seed": seed}
    ranks = [list(numbers(units, batch_size, rank=rank, **settings)) for rank in range(world)]
    seen = np.concatenate([batch.ravel() for batches in ranks for batch in batches])
    assert sorted(seen) == list(range(sum(units)))
    for batches in ranks:
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert all(len(batch) for batch in batches)


@given(UNITS, st.integers(1, 9), st.integers(1, 20), st.data())
def test_a_cursor_goes_on_with_the_very_next_row(units, batch_size, pool_rows, data):
    whole = numbers(units, batch_size, epochs=3, pool_rows=pool_rows)
    batches, cursors = [], [whole.cursor]
    for batch in whole:
        batches.append(batch)
        cursors.append(json.loads(json.dumps(whole.cursor)))
    at = data.draw(st.integers(0, len(batches)))
    rest = list(numbers(units, batch_size, epochs=3, pool_rows=pool_rows, cursor=cursors[at]))
    assert len(rest) == len(batches) - at
    assert all(map(np.array_equal, rest, batches[at:]))


def test_batches_of_a_store_hold_every_row_and_differ_by_seed_and_epoch(rows):
    first = np.concatenate(list(rows.batches(37, seed=1, pool_bytes=600)))
    both = np.concatenate(list(rows.batches(37, seed=1, epochs=2, pool_bytes=600)))
    other = np.concatenate(list(rows.batches(37, seed=2, pool_bytes=600)))
    assert first.dtype == np.float32
    assert np.array_equal(as_set(first), as_set(everything(rows)))
    assert np.array_equal(first, both[: len(rows)])
    assert not np.array_equal(first, both[len(rows) :])
    assert not np.array_equal(first, other)
    assert np.array_equal(as_set(first), as_set(other))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int8", "float8"])
def test_every_number_format_is_batched(tmp_path, dtype):
    rows = fakes.make(tmp_path, 10, dtype=dtype)["mid.0"]
    assert np.array_equal(as_set(np.concatenate(list(rows.batches(11)))), as_set(everything(rows)))


def test_stores_of_all_kinds_are_read_side_by_side_in_the_memory_of_those_before(tmp_path):
    stores = [fakes.make(tmp_path / dtype, 10, dtype=dtype) for dtype in NUMBER_FORMATS]
    for _ in range(2):
        some = [store[block] for store in stores for block in store.blocks]
        read = [list(rows.batches(7, pool_bytes=600)) for rows in some]  # one after another
        together = zip(*(rows.batches(7, pool_bytes=600) for rows in some), strict=False)
        for rows, batches in zip(some, read, strict=True):
            assert np.array_equal(as_set(np.concatenate(batches)), as_set(everything(rows)))
        for number, batches in enumerate(together):
            assert all(np.array_equal(one, other[number]) for one, other in zip(batches, read, strict=True))


@pytest.mark.parametrize(
    ("filters", "images"),
    [
        ({"steps": 1}, range(10)),
        ({"branches": "cond"}, range(10)),
        ({"samples": [0, 3, 4, 9]}, [0, 3, 4, 9]),
        ({"samples": slice(2, 7), "steps": {0}}, range(2, 7)),
    ],
)
def test_filters_choose_steps_branches_and_images(rows, filters, images):
    some = rows.filter(**filters)
    truth = np.stack([rows.read(i) for i in images])
    truth = truth[:, list(some.steps)][:, :, [rows.branches.index(b) for b in some.branches]]
    assert some.shape == truth.shape
    assert np.array_equal(np.stack([some.read(i) for i in range(len(some.samples))]), truth)
    got = np.concatenate(list(some.batches(13, pool_bytes=300)))
    assert np.array_equal(as_set(got), as_set(truth.reshape(-1, rows.width)))
    assert np.isclose(some.moments.mean, truth.reshape(-1, rows.width).mean(0), atol=1e-5).all()
    assert some.digest != rows.digest


def test_what_is_not_there_is_named(rows):
    with pytest.raises(StoreError, match="no step 7; they have 0, 1"):
        rows.filter(steps=[0, 7])
    with pytest.raises(StoreError, match="no branch both; they have uncond, cond"):
        rows.filter(branches="both")
    with pytest.raises(StoreError, match="image 10 is not among the 10 images"):
        rows.filter(samples=[10])
    with pytest.raises(StoreError, match="no step was chosen"):
        rows.filter(steps=[])
    with pytest.raises(StoreError, match=r"no block 'mid\.1'; it has mid\.0, up\.1\.0"):
        Store.open(rows.shards.path)["mid.1"]
    with pytest.raises(IndexError, match="image 10 of a store with 10"):
        Store.open(rows.shards.path).samples[10]


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"seed": -1}, {"rank": 1}, {"epochs": -1}])
def test_settings_that_cannot_be_are_refused(rows, bad):
    with pytest.raises(StoreError, match="sizes must be"):
        rows.batches(**{"batch_size": 4, **bad})


def test_a_cursor_of_other_rows_or_settings_is_refused(rows):
    cursor = rows.batches(8).cursor
    with pytest.raises(StoreError, match="other seed"):
        rows.batches(8, seed=1, cursor=cursor)
    with pytest.raises(StoreError, match="other rows"):
        rows.filter(steps=0).batches(8, cursor=cursor)
    with pytest.raises(StoreError, match="place"):
        rows.batches(8, cursor={**cursor, "row": -1})


def test_no_rows_are_an_error_and_few_rows_are_one_batch(tmp_path, rows):
    with pytest.raises(StoreError, match="no rows"):
        fakes.make(tmp_path, 0)["mid.0"].batches(8)
    assert [len(batch) for batch in rows.batches(10_000)] == [len(rows)]


def test_an_abandoned_iterator_leaves_no_thread(rows):
    before = set(threading.enumerate())  # readers of iterators that other tests dropped may end meanwhile
    batches = rows.batches(8, epochs=None, pool_bytes=600)
    next(batches)
    assert any(thread.name.startswith("unbox-read") for thread in set(threading.enumerate()) - before)
    batches.close()
    assert not set(threading.enumerate()) - before


def test_pools_bound_what_is_read_ahead(rows, monkeypatch):
    sizes = []
    fill = type(rows).fill

    def noting(self, pool, *given):
        sizes.append(pool)
        fill(self, pool, *given)

    monkeypatch.setattr(type(rows), "fill", noting)
    list(rows.batches(8, pool_bytes=1000))
    chunk = 4 * 4 * 4 * 4 * 2 * 4  # samples x steps x branches x positions x channels x bytes, at most
    assert len(sizes) == 3
    assert max(pool.values.nbytes for pool in sizes) <= 1000 + chunk
    assert np.shares_memory(sizes[0].values, sizes[2].values)


def test_samples_are_distinct_rows_of_many_images(rows):
    truth = everything(rows)
    some = rows.sample(200, seed=3)
    assert some.shape == (200, rows.width)
    assert len(np.unique(some, axis=0)) == 200
    assert {row.tobytes() for row in some} <= {row.tobytes() for row in truth}
    assert np.array_equal(some, rows.sample(200, seed=3))
    assert not np.array_equal(some, rows.sample(200, seed=4))
    assert np.array_equal(as_set(rows.sample(10**9)), as_set(truth))


def test_a_store_opened_earlier_is_not_disturbed_by_one_that_grows(tmp_path):
    store = fakes.make(tmp_path, 8)
    batches = store["mid.0"].batches(5)
    first = next(batches)
    fakes.make(tmp_path, 20)
    assert len(np.concatenate([first, *batches])) == len(store["mid.0"])
    assert len(Store.open(tmp_path)) == 20


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", list(NUMBER_FORMATS))
def test_taking_rows_is_decoding_them(monkeypatch, compiled, dtype):
    """Every float16 but NaN and infinity, subnormal ones too, in rows in any order."""
    monkeypatch.setattr(compiled_loops, "AVAILABLE", compiled)
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    x = every[np.isfinite(every)].astype(np.float32).reshape(-1, 62)
    values, scale = encode(x, dtype)
    rows = np.random.default_rng(0).integers(0, len(x), 500)
    expected = decode(values, scale, dtype)[rows]
    assert np.array_equal(take(values, scale, rows, dtype), expected)
    assert dtype in ("int8", "float8", "bfloat16") or np.array_equal(expected, x[rows])


def test_an_iterator_that_is_dropped_does_not_wait_for_what_it_reads_ahead():
    release, reading = threading.Event(), threading.Event()

    def load(chosen, used):
        if chosen[0] != first:
            reading.set()
            assert release.wait(60)
        return Pool(np.zeros((3, 1), np.float32), None, "float32")

    sizes = {"width": 1, "pool_rows": 3}
    first = np.random.default_rng([0, 0, 0]).permutation(4)[0]
    batches = Batches(BatchOrder(3), unit_rows=np.full(4, 3), load=load, identity="x", **sizes)
    next(batches)
    assert reading.wait(60)
    gone = weakref.ref(batches)
    del batches
    gc.collect()
    assert gone() is None
    assert not release.is_set()
    release.set()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """300 images of 10 steps: 3,000 chunks of an image and a step each, as at real size, but small."""
    fields = {"blocks": {"mid.0": (4, 4, 64)}, "steps": tuple(range(10)), "branches": ("cond",)}
    with pytest.MonkeyPatch.context() as patch:
        for module in (shard, shard_writer):
            patch.setattr(module, "CHUNK_BYTES", 2048)
        yield fakes.make(tmp_path_factory.mktemp("large"), 300, 50, shard_samples=64, **fields)


def read_chunks(monkeypatch):
    """The chunks that are read from now on, by name and place."""
    seen, plain = [], ChunkIndex.read
    monkeypatch.setattr(ChunkIndex, "read", lambda self, *rest: seen.append(rest[1]) or plain(self, *rest))
    return seen


@pytest.mark.parametrize(("n", "chunks"), [(5, 16), (50, 16), (64, 16), (600, 150), (4000, 1000)])
def test_a_sample_reads_a_quarter_of_the_rows_of_some_chunks(large, monkeypatch, n, chunks):
    rows, seen = large["mid.0"], read_chunks(monkeypatch)
    some = rows.sample(n, seed=1)
    assert len(seen) <= chunks
    assert len(np.unique(some, axis=0)) == len(some) == n
    assert {row.tobytes() for row in some} <= {row.tobytes() for row in everything(rows)}


def test_images_one_after_another_read_each_chunk_once(tmp_path, monkeypatch):
    rows = fakes.make(tmp_path, 40, shard_samples=16)["mid.0"]
    truth = fakes.expected(rows.shards.schema, "mid.0", 40).astype(np.float16)
    seen = read_chunks(monkeypatch)
    for i in range(40):
        assert np.array_equal(rows.read(i), truth[i])
    assert len(seen) == 3 * 2 * 2  # shards x steps x branches
    some = rows.filter(steps=1, samples=[3, 9, 20])
    assert np.array_equal(some.read_images([2, 0]), truth[[20, 3], 1:])


def test_what_is_remembered_of_shards_is_bounded(large, monkeypatch):
    store = Store.open(large.shards.path)
    store.shards._indices.limit, store.shards._chunks.limit = 12_000, 100_000
    assert np.array_equal(as_set(everything(store["mid.0"])), as_set(everything(large["mid.0"])))
    assert sum(map(len, store["mid.0"].batches(100, pool_bytes=20_000))) == len(store["mid.0"])
    assert store.shards._indices._bytes <= 12_000
    assert store.shards._chunks._bytes <= 100_000
