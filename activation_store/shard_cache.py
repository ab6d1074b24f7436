"""Shards of stores that lie elsewhere, kept on this machine's disk: a bounded number of bytes, what was used
last; shared by all processes and stores, as a shard is found by its SHA-256.

A process that reads a shard holds its file (a shared `flock`), so that no other removes it. What is being
fetched is counted from before its first byte on.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from activation_store.entries import Entry
from activation_store.errors import StoreError
from activation_store.files import digest, read_json, write_json
from activation_store.locks import flock, holder, lock

#: Where the cache is; and its size in GB.
FOLDER_VARIABLE, LIMIT_VARIABLE = "UNBOX_SHARD_CACHE", "UNBOX_SHARD_CACHE_GB"
#: GB of shards that are kept unless the variable says otherwise.
LIMIT_GB = 64

#: When there is no room, the cache is emptied to this share: so that looking through it is seldom.
_FILLED = 0.9
#: Seconds that a shard waits for room, which others' reading takes.
_PATIENCE = 600.0
_SHARD, _INCOMING, _LOCK = ".h5", ".incoming", ".lock"
#: Held by who counts what is here, and removes shards.
_ALL = f"cache{_LOCK}"


def default_folder() -> Path:
    """`UNBOX_SHARD_CACHE`, or `unbox/shards` in the user's cache."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unbox" / "shards"
    return Path(os.environ.get(FOLDER_VARIABLE) or user)


def default_limit() -> int:
    """Bytes of `UNBOX_SHARD_CACHE_GB`. Raises StoreError where that is no size."""
    text = os.environ.get(LIMIT_VARIABLE) or str(LIMIT_GB)
    try:
        size = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        size = 0
    if not 0 < size < 1 << 60:
        raise StoreError(f"{LIMIT_VARIABLE} = {text[:40]!r}: should be a number of GB, like {LIMIT_GB}")
    return size


@dataclass(frozen=True)
class ShardCache:
    """A folder of shards of at most `limit` bytes together."""

    folder: Path = field(default_factory=default_folder)
    limit: int = field(default_factory=default_limit)

    @contextmanager
    def holding(self, entry: Entry, fetch: Callable[[Path], None]) -> Iterator[Path]:
        """The file of a shard, which stays while the block lasts. `fetch` writes one that is not here.

        Raises StoreError for what is not the shard that the entry tells of, and where one does not fit.
        """
        path = self.folder / f"{entry.digest}{_SHARD}"
        while (descriptor := _hold(path, entry.bytes)) is None:
            self._add(path, entry, fetch)
        try:
            yield path
        finally:
            os.close(descriptor)

    def holds(self, entry: Entry) -> bool:
        """Whether a shard's file is here now."""
        return (self.folder / f"{entry.digest}{_SHARD}").exists()

    def drop(self, entry: Entry) -> None:
        """Remove a shard that will not be read again."""
        _remove_unused(self.folder / f"{entry.digest}{_SHARD}")

    def _add(self, path: Path, entry: Entry, fetch: Callable[[Path], None]) -> None:
        if entry.bytes > self.limit:
            raise StoreError(
                f"shard {entry.name} has {entry.bytes:,} bytes, and the cache at {self.folder} is of "
                f"{self.limit:,}: set {LIMIT_VARIABLE}"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        incoming, own = path.with_suffix(_INCOMING), path.with_suffix(_LOCK)
        with lock(own, wait=True, note={"bytes": entry.bytes}):
            try:
                if path.exists():
                    return  # another process fetched it meanwhile
                self._make_room(entry.bytes, own)
                fetch(incoming)
                size = incoming.stat().st_size if incoming.is_file() else 0
                if size != entry.bytes or digest(incoming) != entry.digest:
                    raise StoreError(
                        f"what came of shard {entry.name} is not what the log says: {size:,} bytes of "
                        f"{entry.bytes:,}, or other ones"
                    )
                os.replace(incoming, path)
            finally:
                incoming.unlink(missing_ok=True)
                with self._alone():  # who looks through the folder finds the shard or its lock, never neither
                    own.unlink()

    def _alone(self) -> AbstractContextManager[None]:
        """What keeps others from counting what is here, and from removing shards to make room."""
        return lock(self.folder / _ALL, wait=True)

    def _make_room(self, size: int, own: Path) -> None:
        """Count `size` bytes in, and remove the shards that were used longest ago where they do not fit."""
        counted, begin = self.folder / "bytes.json", time.monotonic()
        while True:
            with self._alone():
                total = _read_total(counted)
                if total is None or total + size > self.limit:
                    total = self._emptied(size, own)
                if total + size <= self.limit:
                    write_json(counted, {"bytes": total + size})
                    return
            if time.monotonic() - begin > _PATIENCE:
                raise StoreError(
                    f"there is no room in the cache at {self.folder}: all of its {self.limit:,} bytes are "
                    f"being read; set {LIMIT_VARIABLE} higher"
                )
            time.sleep(0.02)

    def _emptied(self, size: int, own: Path) -> int:
        """Bytes of the cache, looked through and made smaller; those that are being fetched are counted."""
        shards, total = [], 0
        for place in os.scandir(self.folder):
            path = Path(place.path)
            if path.suffix == _LOCK and path not in (own, self.folder / _ALL):
                total += int((holder(path) or {}).get("bytes", 0))
            elif path.suffix == _INCOMING and holder(path.with_suffix(_LOCK)) is None:
                path.unlink(missing_ok=True)  # of a process that was killed
            elif path.suffix == _SHARD:
                with suppress(FileNotFoundError):
                    status = path.stat()
                    shards.append((status.st_atime_ns, status.st_size, path))
        total += sum(length for _, length, _ in shards)
        for _, length, path in sorted(shards):
            if total + size <= self.limit * _FILLED:
                break
            if _remove_unused(path):
                total -= length
        return total


def _hold(path: Path, size: int) -> int | None:
    """A descriptor that keeps a shard's file where it is, and marks it as used; None if it is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        flock(descriptor, shared=True, wait=True)
        status = os.fstat(descriptor)
        if status.st_nlink and status.st_size == size:
            os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))
            kept, descriptor = descriptor, -1
            return kept
        if status.st_nlink:  # cut off after it was fetched
            path.unlink(missing_ok=True)
        return None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _remove_unused(path: Path) -> bool:
    """Remove a shard's file unless somebody reads it; whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if not flock(descriptor, shared=False, wait=False):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)


def _read_total(path: Path) -> int | None:
    try:
        total = read_json(path)["bytes"]
    except (OSError, StoreError, KeyError, TypeError):
        return None
    return total if type(total) is int and total >= 0 else None
