"""Pushing and pulling stores, over HTTP to a Hub on this machine."""

import json

import numpy as np
import pytest
from huggingface_hub import HfFileSystem, constants

from activation_store import Store, StoreError, Writer, remote_store, verify
from activation_store.commit_log import CommitLog, log_path
from activation_store.entries import Entry
from activation_store.files import write_json
from activation_store.schema import Schema
from tests.activation_store import fakes
from tests.cli.hub_server import hub_of, serve
from unbox.capture import hub as store_hub
from unbox.capture.hub import HubRecord, hub_record, pull, push
from unbox.cli.store import describe
from unbox.errors import UnboxError

REPO = "me/acts"
#: huggingface_hub's own way of sending a file without xet
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with no repositories, which the Hub's client talks to."""
    kind = hub_of(tmp_path / "hub")
    kind.root.mkdir()
    monkeypatch.setattr(constants, "ENDPOINT", serve(kind.root, kind))
    template = constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        constants, "HF_HUB_DISABLE_XET", True
    )  # its storage speaks no HTTP that is documented
    monkeypatch.setattr(remote_store, "PAUSES", (0.0,))
    HfFileSystem.clear_instance_cache()
    yield kind
    HfFileSystem.clear_instance_cache()


@pytest.fixture
def acts(tmp_path):
    return fakes.make(tmp_path / "acts", 40)  # ten shards


def on_hub(hub):
    place = hub.root / "datasets" / REPO
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


def test_a_store_goes_there_and_comes_back(hub, acts, tmp_path, monkeypatch):
    monkeypatch.setattr(store_hub, "COMMIT_FILES", 4)
    done = push(acts.path, REPO, private=True)
    assert (done.shards, done.present, done.bytes) == (10, 0, sum(entry.bytes for entry in acts.entries))
    assert hub_record(acts.path) == HubRecord(REPO, done.commit, acts.digest)
    assert f"hub: me/acts at {done.commit}" in describe(Store.open(acts.path))
    commits = [path for method, path in hub.asked if method == "POST" and "/commit/" in path]
    assert len(commits) == 3 + 1  # of four, four and two shards; then the log
    card = (hub.root / "datasets" / REPO / "README.md").read_text()
    assert "unbox store pull me/acts" in card
    assert "| `mid.0` | 2 x 2 | 8 |" in card

    hub.asked.clear()
    back = pull(REPO, tmp_path / "back")
    assert back.digest == acts.digest
    assert verify(back.path).good
    assert fakes.contents(back.path) == fakes.contents(acts.path)
    assert hub_record(back.path).commit == done.commit
    assert not (back.path / "incoming").exists()
    assert sum(path.endswith(".h5") for method, path in hub.asked) == 10
    far = Store.open(f"hf://datasets/{REPO}")
    assert far.digest == acts.digest


def test_only_what_is_missing_goes(hub, acts, tmp_path):
    push(acts.path, REPO)
    first, before = dict(hub.sent), set(on_hub(hub))
    hub.sent.clear()
    again = push(acts.path, REPO)
    assert (again.shards, again.present, hub.sent) == (0, 10, {})
    assert not [p for m, p in hub.asked[-6:] if m == "POST" and "/commit/" in p]  # nothing to commit
    more = fakes.make(acts.path, 47)  # two shards more, the last with three images
    done = push(acts.path, REPO)
    assert (done.shards, done.present) == (2, 10)
    assert not set(hub.sent) & set(first) & {entry.digest for entry in acts.entries}
    pulled = pull(REPO, tmp_path / "back")
    assert pulled.digest == more.digest
    longer = fakes.make(acts.path, 48)  # the last shard is replaced by a longer one
    push(acts.path, REPO)
    new, old = on_hub(hub) - before, "shards/00000/000000044-000000047.h5"
    assert old not in new
    assert "shards/00000/000000044-000000048.h5" in new
    hub.asked.clear()
    assert pull(REPO, tmp_path / "back").digest == longer.digest
    assert sum(path.endswith(".h5") for method, path in hub.asked) == 1
    assert not (tmp_path / "back" / old).exists()
    old_commit = done.commit  # what was there then is there still
    assert pull(REPO, tmp_path / "then", revision=old_commit).digest == more.digest


def test_a_push_that_fails_goes_on_and_bytes_that_came_are_not_sent_again(hub, acts, monkeypatch):
    monkeypatch.setattr(store_hub, "AT_ONCE", 1)
    monkeypatch.setattr(store_hub, "COMMIT_FILES", 4)
    hub.failing = {acts.entries[6].digest}
    with pytest.raises(UnboxError, match=r"the Hub did not take .*acts as me/acts: Client error '400"):
        push(acts.path, REPO)
    assert len(on_hub(hub)) == 4 + 1  # the first commit: shards and settings, no log
    assert len(hub.sent) == 6
    assert len(Store.open(f"hf://datasets/{REPO}")) == 0  # a good store, though an empty one
    sent = dict(hub.sent)
    hub.sent.clear()
    done = push(acts.path, REPO)
    assert (done.shards, done.present) == (6, 4)
    assert not set(sent) & set(hub.sent)  # two that came before the failure, not committed then
    assert Store.open(f"hf://datasets/{REPO}").digest == acts.digest


def test_a_damaged_shard_is_not_committed(hub, acts):
    place = acts.path / "shards" / "00000" / acts.entries[3].name
    data = bytearray(place.read_bytes())
    data[1000] ^= 1
    place.write_bytes(data)
    with pytest.raises(UnboxError, match=r"012-000000016.h5 is damaged: its digest is not the log's"):
        push(acts.path, REPO)
    assert not [name for name in on_hub(hub) if name.endswith(".h5")]


def test_what_comes_damaged_is_refused_and_nothing_of_it_stays(hub, acts, tmp_path):
    push(acts.path, REPO)
    blob = hub.root / ".blobs" / acts.entries[2].digest
    good = blob.read_bytes()
    blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(
        StoreError, match=r"what came of shard 000000008-000000012.h5 is not what the log says"
    ):
        pull(REPO, tmp_path / "back")
    part = Store.open(tmp_path / "back")
    assert len(part) == 8
    assert verify(part.path).good
    blob.write_bytes(good)
    assert pull(REPO, tmp_path / "back").digest == acts.digest


def test_ranks_on_several_disks_push_theirs(hub, tmp_path):
    parts = [fakes.make(tmp_path / f"rank-{rank}", 40, rank=rank, world=2) for rank in (0, 1)]
    for part in parts:
        push(part.path, REPO)
    assert pull(REPO, tmp_path / "back").digest == fakes.make(tmp_path / "whole", 40).digest


def test_other_stores_are_refused_on_both_sides(hub, acts, tmp_path):
    push(acts.path, REPO)
    other = fakes.make(tmp_path / "other", 8, provenance={"system": "another"})
    with pytest.raises(UnboxError, match="me/acts holds a store of another run or other settings"):
        push(other.path, REPO)
    with pytest.raises(StoreError, match=r"was begun with other settings: .*system"):
        pull(REPO, other.path)
    fewer = fakes.make(tmp_path / "fewer", 8)
    with pytest.raises(
        UnboxError, match=r"commits-00000.log of me/acts lists 8 shards that .*fewer does not"
    ):
        push(fewer.path, REPO)
    pull(REPO, fewer.path)
    assert push(fewer.path, REPO).shards == 0
    for call, message in (
        (lambda: pull("me/none", tmp_path / "none"), "the data set me/none could not be read from the Hub"),
        (lambda: pull(REPO, tmp_path / "none", "v9"), "me/acts could not be read from the Hub"),
        (lambda: push(tmp_path / "nothing", REPO), "there is no activation store at"),
        (lambda: pull("memory://x", tmp_path / "none", "v9"), "is a URL: a revision is of a data set"),
    ):
        with pytest.raises((UnboxError, StoreError), match=message):
            call()


def test_blocks_that_were_added_go_along(hub, acts, tmp_path):
    kind = fakes.schema(blocks={"up.0.1": (2, 2, 8)})
    with Writer(acts.path / "added" / "up.0.1", kind, total=40) as writer:
        missing = list(writer.missing(map(fakes.sample, range(40))))
        writer.append(missing, {"up.0.1": np.ones(kind.shape("up.0.1", 40), np.float16)})
    assert Store.open(acts.path).blocks == ("mid.0", "up.1.0", "up.0.1")
    assert push(acts.path, REPO).shards == 20
    assert push(acts.path, REPO).shards == 0
    back = pull(REPO, tmp_path / "back")
    assert back.blocks == ("mid.0", "up.1.0", "up.0.1")
    assert back["up.0.1"].moments.count == 40 * 4 * 4
    assert sum(name.endswith("README.md") for name in on_hub(hub)) == 1


def test_a_store_at_a_url_is_pulled_too(acts, tmp_path):
    assert pull(f"file://{acts.path}", tmp_path / "back").digest == acts.digest


@pytest.mark.parametrize("count", [3000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_what_is_missing_is_found_by_one_listing(hub, tmp_path, count):
    """Of so many shards all but two are on the Hub: a request for 1000 files, and a few more."""
    kind = Schema({"mid.0": (1, 1, 8)}, (0,), ("cond",), shard_samples=4)
    entries = [Entry(4 * k, 4 * k + 4, 4096, f"{k:064x}", f"{k:064x}") for k in range(count)]
    CommitLog(log_path(tmp_path / "acts", 0), kind)
    (tmp_path / "acts").mkdir()
    CommitLog(log_path(tmp_path / "acts", 0), kind).replace(entries, {})
    write_json(tmp_path / "acts" / "store.json", kind.to_file())
    there = {
        f"shards/{k // 1000:05d}/{entry.name}": (entry.bytes, entry.digest)
        for k, entry in enumerate(entries)
        if k not in (5, count - 1)
    }
    (hub.root / "datasets" / REPO).mkdir(parents=True)
    kept = hub.root / ".commits" / "datasets" / REPO
    kept.mkdir(parents=True)
    (kept / f"{'a' * 40}.json").write_text(json.dumps(there))
    (kept / "head").write_text("a" * 40)
    from huggingface_hub import HfApi

    plan = store_hub._Push(HfApi(), REPO, Store.open(tmp_path / "acts"), tmp_path / "acts", None)
    missing = [sent.place for sent in plan._missing()]
    assert missing == [f"shards/{k // 1000:05d}/{entries[k].name}" for k in (5, count - 1)]
    folders = -(-count // 1000) + 1
    assert len(hub.asked) <= -(-(count + folders) // 1000) + 2
