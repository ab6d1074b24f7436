"""The log of a store: torn lines, compaction, sums of statistics, absent images, stops of all kinds."""

import signal
import time

import numpy as np
import pytest

from activation_store import Store, StoreError, Writer, shards, verify, writer
from activation_store import shard_publisher as publisher
from activation_store.commit_log import CommitLog, log_path
from activation_store.entries import Entry
from activation_store.moments import Moments, moments_of
from tests.activation_store import fakes
from tests.activation_store.test_faults import start


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fakes.make(tmp_path_factory.mktemp("whole"), 22)


def test_a_log_torn_at_any_byte_has_all_lines_before_and_the_next_writer_goes_on(tmp_path, whole):
    store = fakes.make(tmp_path, 22)
    path, data = log_path(tmp_path, 0), log_path(tmp_path, 0).read_bytes()
    begun = data.index(b"\n", data.index(b"\n") + 1) + 1  # behind the header and the versions
    last = data.rindex(b"\n", 0, -1) + 1
    for length in [*range(begun, last, 37), *range(last, len(data), 11)]:
        path.write_bytes(data[:length])
        assert len(Store.open(tmp_path).entries) == data[begun:length].count(b"\n")
    path.write_bytes(data[:-20] + b"\0" * 19 + b"\n")  # blocks that a dying machine never wrote
    assert len(Store.open(tmp_path)) == 20
    assert fakes.make(tmp_path, 22).digest == store.digest == whole.digest
    assert verify(tmp_path).good


def entry(start, stop, digit="a"):
    return Entry(start, stop, 10**6, digit * 64, "b" * 64)


def test_a_log_grows_by_its_lines_and_is_replaced_when_most_are_superseded(tmp_path):
    log = CommitLog(log_path(tmp_path, 0), fakes.schema())
    log.begin({"numpy": 1})
    for number in range(60):
        log.append(entry(0, 1 + number % 4, "abcd"[number % 4]))
    size = log.path.stat().st_size
    again = CommitLog.read(log.path, fakes.schema())
    assert again.entries == log.entries
    again.begin({"numpy": 2})
    assert again.path.stat().st_size < size / 10
    assert CommitLog.read(log.path, fakes.schema()).entries == [log.entries[-1]]
    assert CommitLog.read(log.path, fakes.schema()).versions == {"numpy": 2}


def truth(store, block, images):
    """Statistics by (step, branch) of some images, from their rows."""
    x = np.stack([store[block].read(i) for i in images]).astype(np.float64)
    return x.reshape(*x.shape[:3], -1, x.shape[-1]).transpose(1, 2, 0, 3, 4).reshape(2, 2, -1, x.shape[-1])


@pytest.mark.parametrize("world", [1, 2])
def test_statistics_are_summed_and_asking_for_them_opens_no_shard(tmp_path, monkeypatch, world):
    monkeypatch.setattr(publisher, "EVERY", 2)
    for count in (22, 31, 33, 50):  # the last shard becomes longer each time
        for rank in range(world):
            store = fakes.make(tmp_path, count, rank=rank, world=world)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "open_shard", None)
        moments = {block: Store.open(tmp_path).moments(block) for block in store.blocks}
    for block, found in moments.items():
        x = truth(store, block, range(50))
        assert found.count == x.shape[2]
        assert np.allclose(found.mean, x.mean(2), atol=1e-5)
        assert np.allclose(found.m2, x.var(2) * found.count, rtol=1e-4)
        assert (found.norms.sum(-1) == found.count).all()
    (tmp_path / "statistics-00000.bin").unlink()
    again = Store.open(tmp_path).moments("mid.0")  # from the shards
    assert again.count == moments["mid.0"].count
    assert np.allclose(again.mean, moments["mid.0"].mean)
    assert np.array_equal(again.channels, moments["mid.0"].channels)


@pytest.mark.parametrize("q", [0.02, 0.3, 0.5, 0.9])
def test_quantiles_of_channels_are_within_a_bin(tmp_path, q):
    store = fakes.make(tmp_path, 60, shard_samples=16, blocks={"mid.0": (2, 2, 8), "wide": (4, 8, 3)})
    for block in store.blocks:
        rows, found = store[block], store[block].moments.channel_quantile(q)
        x = np.concatenate([rows.read(i).reshape(-1, rows.width) for i in range(60)])
        at = np.quantile(x, [max(0, q - 0.03), min(1, q + 0.03)], axis=0)  # some rows of each image count
        assert (found >= at[0] - np.abs(at[0]) / 4 - 2**-12).all()
        assert (found <= at[1] + np.abs(at[1]) / 4 + 2**-12).all()
        one = rows.filter(steps=1, branches="cond").moments.channel_quantile(q)
        assert one.shape == (rows.width,)
    with pytest.raises(StoreError, match="not counted"):
        store["wide"].filter(samples=[3]).moments.channel_quantile(0.5)


def test_channels_of_many_steps_are_counted_together(tmp_path):
    store = fakes.make(tmp_path, 6, steps=tuple(range(5)))
    rows = store["mid.0"]
    assert rows.moments.channel_quantile(0.5).shape == (8,)
    assert rows.moments.channels.sum(-1).tolist() == [6 * 5 * 2 * 4] * 8
    with pytest.raises(StoreError, match="not counted"):
        rows.filter(steps=2).moments.channel_quantile(0.5)


def test_an_image_that_cannot_be_stored_is_absent_counted_left_out_and_not_tried_again(tmp_path):
    bad = {3, 4, 17, 99}
    store = fakes.make(tmp_path, 100, bad=bad, on_bad="skip", shard_samples=8)
    assert len(store) == 96
    assert set(store.absent) == bad
    assert "mid.0 in image 17 holds 1 values that are NaN" in store.absent[17]
    good = [i for i in range(100) if i not in bad]
    assert [sample.index for sample in store.samples] == good
    assert [store.thumbnail(i) for i in range(96)] == list(map(fakes.thumbnail, good))
    for block in store.blocks:
        rows, x = store[block], fakes.expected(store.schema, block, 100)[good].astype(np.float16)
        assert np.array_equal(rows.read_images(range(96)), x)
        assert rows.moments.count == len(rows) == x.size // rows.width
        assert np.allclose(rows.moments.mean, x.reshape(-1, rows.width).mean(0, np.float64), atol=1e-4)
        got = np.concatenate(list(rows.batches(50, pool_bytes=3000)))
        flat = x.reshape(-1, rows.width).astype(np.float32)
        assert np.array_equal(got[np.lexsort(got.T)], flat[np.lexsort(flat.T)])
        assert {row.tobytes() for row in rows.sample(500)} <= {row.tobytes() for row in flat}
    assert store.missing(100) == []
    with Writer(tmp_path, store.schema) as again:
        assert list(again.missing(map(fakes.sample, range(100)))) == []
    assert verify(tmp_path).good
    assert (
        fakes.make(tmp_path / "b", 100, batch=7, bad=bad, on_bad="skip", shard_samples=8).digest
        == store.digest
    )


def test_without_leave_an_image_that_cannot_be_stored_stops_after_those_before_it(tmp_path):
    with pytest.raises(StoreError, match=r"mid\.0 in image 6 holds 1 values"):
        fakes.make(tmp_path, 20, bad={6})
    assert [sample.index for sample in Store.open(tmp_path).samples] == list(range(6))
    assert fakes.make(tmp_path, 20).digest == fakes.make(tmp_path / "b", 20).digest


def test_what_is_published_early_is_there_at_once_and_changes_no_byte(tmp_path, whole):
    with Writer(tmp_path, fakes.schema()) as to:
        for number, sample in enumerate(to.missing(map(fakes.sample, range(22)))):
            i = sample.index
            to.append([sample], fakes.updates(to.schema, i), [fakes.thumbnail(i)])
            if number % 3 == 1:
                to.publish()
                assert len(Store.open(tmp_path)) == i + 1
                assert not [f for f in verify(tmp_path).findings if "in no log" not in f.problem]
    assert Store.open(tmp_path).digest == whole.digest
    assert fakes.contents(tmp_path) == fakes.contents(whole.path)


def test_a_shard_that_fills_slowly_is_published_now_and_then(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(writer, "PUBLISH_EVERY", 0.0)
    with Writer(tmp_path, fakes.schema(shard_samples=22)) as to:
        fakes.fill(to, 10, batch=5)
        to.flush()
        assert len(Store.open(tmp_path)) == 10


def test_sigterm_as_python_raises_it_keeps_every_image_that_was_handed_over(tmp_path, whole):
    """A process whose SIGTERM is an exception, as unbox's is: what was appended is published at its end."""
    process = start(tmp_path, 0.1, 0, 1, "term")
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    store = Store.open(tmp_path)
    assert int(said.split()[-1]) <= len(store) < 42
    assert verify(tmp_path).good
    assert fakes.make(tmp_path, 42).digest == fakes.make(tmp_path / "b", 42).digest


def test_moments_that_were_not_counted_stay_unknown_when_added():
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    some = moments_of(x)
    both = some + Moments(some.count, some.mean, some.m2, some.norms)
    assert both.channels is None
