"""Copying a store that lies elsewhere: shards that a folder lacks are fetched, checked and committed."""

import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

from activation_store.entries import Entry
from activation_store.errors import StoreError
from activation_store.merge import link_shard
from activation_store.shard_cache import ShardCache
from activation_store.store import Store
from activation_store.verify import Progress
from activation_store.writer import Writer

#: In the folder: shards that have come and are not committed yet; gone at the end.
INCOMING = "incoming"
#: Shards that are fetched at one time.
AT_ONCE = 4


def mirror(url: str, out: str | os.PathLike, progress: Progress | None = None) -> Store:
    """Copy to a folder what it lacks of the store at `url`, and of blocks that were added to it; returns the
    store in the folder.

    A shard is compared with the SHA-256 in the log, put in its place and committed; so the folder holds a
    good store at any moment, and the same call goes on after a stop. Shards that it has and `url` has not
    stay.
    Disk beside the store: `AT_ONCE` + 1 shards. Raises StoreError where the folder holds another store, and
    for what comes and is not what the log says.
    """
    incoming = Path(out) / INCOMING
    far = Store.open(url, ShardCache(incoming, 1 << 60))
    if (Path(out) / "store.json").exists():  # before anything is written
        here = {entry.start: entry for entry in Store.open(out).entries}
        for entry in far.entries:
            _has(here.get(entry.start), entry, out)
    versions = {
        "software": list({repr(one): one for one in far.versions}.values()),
        "copied from": far.digest,
    }
    with Writer(out, far.schema, versions=versions) as writer:
        left = [
            k for k, entry in enumerate(far.entries) if not _has(writer.entries.get(entry.start), entry, out)
        ]
        done = len(far.entries) - len(left)
        for number in _fetched(left, lambda k: _fetch(far, k)):
            link_shard(writer, far, number)
            far.shards.drop(far.entries[number])
            done += 1
            if progress:
                progress(done, len(far.entries))
        shutil.rmtree(incoming, ignore_errors=True)
    for part in far.added:
        place = str(part.path).removeprefix(f"{far.path}/")
        mirror(str(part.path), Path(out) / place, progress)
    return Store.open(out)


def _has(here: Entry | None, there: Entry, out: str | os.PathLike) -> bool:
    """Whether a folder's shard is the other store's, or a longer one of the same run."""
    if here is None or here.stop < there.stop:
        return False
    if here.stop == there.stop and (here.digest, here.prompts) != (there.digest, there.prompts):
        raise StoreError(
            f"{out} has another shard {here.name} than the store that is to be copied there: choose another "
            "folder"
        )
    return True


def _fetch(store: Store, number: int) -> None:
    with store.shards.file(store.entries[number]):
        pass


def _fetched(numbers: Sequence[int], fetch: Callable[[int], None]) -> Iterator[int]:
    """The numbers in order, each when it is fetched; the next ones are fetched meanwhile, by threads that do
    not outlive the process: a stop does not wait for them."""
    left, jobs = iter(numbers), queue.SimpleQueue[tuple[int, Future[None]] | None]()
    pending: list[tuple[int, Future[None]]] = []

    def begin() -> None:
        if (number := next(left, None)) is not None:
            pending.append((number, Future()))
            jobs.put(pending[-1])

    def work() -> None:
        while (job := jobs.get()) is not None:
            number, future = job
            try:
                fetch(number)
            except (OSError, StoreError, RuntimeError) as error:
                future.set_exception(error)
            else:
                future.set_result(None)

    workers = min(AT_ONCE, len(numbers))
    for _ in range(workers):
        threading.Thread(target=work, daemon=True, name="unbox-fetch").start()
        begin()
    try:
        while pending:
            number, future = pending.pop(0)
            future.result()
            begin()
            yield number
    finally:
        while not jobs.empty():
            jobs.get()
        for _ in range(workers):
            jobs.put(None)
