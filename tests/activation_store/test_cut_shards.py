"""A stop cuts the shard that is being filled short, in place: nothing is copied, and nobody sees the cut."""

import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from activation_store import Store, StoreError, Writer, repair, shard_writer, verify
from activation_store.commit_log import log_path
from activation_store.entries import check_entry
from activation_store.number_formats import decode, encode
from tests.activation_store import fakes


def stopped(path, count, kind):
    with suppress(KeyboardInterrupt), Writer(path, kind, total=100) as to:
        fakes.fill(to, count)
        to.flush()
        raise KeyboardInterrupt
    return Store.open(path)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("count", [1, 33, 37])
def test_what_is_cut_reads_as_what_was_begun_so_short(tmp_path, dtype, count, monkeypatch):
    monkeypatch.setattr(fakes, "BLOCKS", {"mid.0": (8, 8, 64), "up.1.0": (4, 4, 4)})
    kind = fakes.schema(dtype, shard_samples=64, blocks=fakes.BLOCKS)
    store = stopped(tmp_path / "cut", count, kind)
    (entry,) = store.entries
    assert (entry.samples, entry.room) == (count, 64)
    short = fakes.make(tmp_path / "short", count, dtype=dtype, shard_samples=64, blocks=fakes.BLOCKS)
    assert [s.index for s in store.samples] == list(range(count))
    for block in fakes.BLOCKS:
        truth = decode(*encode(fakes.expected(kind, block, count), dtype), dtype)
        assert np.array_equal(store[block].read_images(range(count)), truth)
        assert np.array_equal(short[block].read_images(range(count)), truth)
        rows = np.concatenate(list(store[block].batches(50, pool_bytes=5000)))
        flat = truth.reshape(-1, store[block].width)
        assert np.array_equal(rows[np.lexsort(rows.T)], flat[np.lexsort(flat.T)])
        assert np.allclose(store[block].moments.mean, short[block].moments.mean)
    assert verify(tmp_path / "cut").good
    grown = fakes.make(tmp_path / "cut", 100, dtype=dtype, shard_samples=64, blocks=fakes.BLOCKS)
    once = fakes.make(tmp_path / "once", 100, dtype=dtype, shard_samples=64, blocks=fakes.BLOCKS)
    assert grown.digest == once.digest
    assert fakes.contents(grown.path) == fakes.contents(once.path)


def test_a_stop_writes_what_is_in_memory_and_no_more(tmp_path, monkeypatch):
    """At most a chunk of each block, step and branch, whatever the shard holds."""
    kind = fakes.schema(shard_samples=512, blocks={"mid.0": (8, 8, 64)})
    written, write = [], shard_writer.write_chunk

    def noting(dataset, place, chunk):
        written.append(chunk.nbytes)
        write(dataset, place, chunk)

    monkeypatch.setattr(shard_writer, "write_chunk", noting)
    with suppress(KeyboardInterrupt), Writer(tmp_path, kind) as to:
        fakes.fill(to, 400)
        to.flush()
        whole = 4 * (400 // 128)  # 2 steps, 2 branches; the writer's thread may still be at the last of them
        for _ in range(500):
            if len(written) >= whole:
                break
            time.sleep(0.02)
        assert len(written) == whole
        del written[:]
        raise KeyboardInterrupt
    assert len(written) == 4
    assert len(Store.open(tmp_path)) == 400


def test_repair_finds_what_was_cut_and_lies_of_the_log_are_refused(tmp_path):
    kind = fakes.schema(shard_samples=64)
    store = stopped(tmp_path, 21, kind)
    log = log_path(tmp_path, 0)
    text = log.read_text()
    log.unlink()
    repair(tmp_path)
    again = Store.open(tmp_path)
    assert again.entries == store.entries
    assert np.array_equal(again["mid.0"].read(20), store["mid.0"].read(20))
    assert '"room":64' in text
    for room in (65, 21, -1, True, "64"):
        with pytest.raises(StoreError, match="malformed entries"):
            check_entry(replace(store.entries[0], room=room), "log", kind)
