"""Stores at a URL, read through fsspec: `s3://`, `gs://`, `https://`, `hf://datasets/owner/name`, `memory://`.

Settings, logs and sums are read when a store is opened; a shard is fetched when it is first needed, and kept
by a `ShardCache`.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from activation_store.commit_log import log_path
from activation_store.entries import SHARDS, Entry, shard_place
from activation_store.errors import StoreError
from activation_store.schema import Schema
from activation_store.shard_cache import ShardCache
from activation_store.store_statistics import statistics_path

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")

#: Seconds before what a network refused is tried again; as many tries more as there are.
PAUSES = (1.0, 5.0, 25.0)

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+(?:://|::).")
#: Files of a store's folder that say which shards it has.
_LISTS = re.compile(r"store\.json|commits-\d{5,}\.log|statistics-\d{5,}\.bin|manifest-\d+\.json")


def is_url(place: str | os.PathLike) -> bool:
    """Whether a place is a URL, and no folder."""
    return isinstance(place, str) and _URL.match(place) is not None


@dataclass(frozen=True)
class RemoteStore:
    """The folder of a store at a URL, and what of it is here."""

    url: str
    cache: ShardCache = field(default_factory=ShardCache)

    def fetch_lists(self, into: Path) -> None:
        """Copy settings, logs and sums. Raises StoreError where there is no store, or no way to it."""
        self._retried(lambda files, _: files.invalidate_cache(), "the folder")
        names = self.names() or self._guessed(into)
        # Sums before the logs: they may be behind their log, never ahead of it.
        for name in sorted(filter(_LISTS.fullmatch, names), reverse=True):
            self.fetch(name, into / name)
        if not (into / "store.json").exists():
            raise StoreError(f"there is no activation store at {self.url} (no store.json in it)")

    def names(self, folder: str = "") -> list[str]:
        """Names of what lies in a folder of the store; none where it is not there, or cannot be listed."""

        def ls(files: "AbstractFileSystem", root: str) -> list[str]:
            try:
                found = files.ls(f"{root}/{folder}".rstrip("/"), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return [PurePosixPath(str(path).split("?")[0]).name for path in found]

        return self._retried(ls, folder or "the folder")

    def shard(self, schema: Schema, entry: Entry) -> AbstractContextManager[Path]:
        """Context manager of a shard's file on this disk."""
        place = shard_place(Path(), schema, entry.start, entry.name).as_posix()

        def fetch(path: Path) -> None:
            if not self.fetch(place, path) and not self.fetch(f"{SHARDS}/{entry.name}", path):
                raise StoreError(f"shard {entry.name} is missing at {self.url}")

        return self.cache.holding(entry, fetch)

    def fetch(self, name: str, to: Path) -> bool:
        """Copy one file; False where it is not there."""

        def get(files: "AbstractFileSystem", root: str) -> bool:
            try:
                files.get_file(f"{root}/{name}", str(to))
            except FileNotFoundError:
                to.unlink(missing_ok=True)
                return False
            return True

        return self._retried(get, name)

    def _guessed(self, into: Path) -> Iterator[str]:
        """Names that a store without an index (a plain web server's) may have: of ranks from 0 on."""
        yield "store.json"
        rank = 0
        while self.fetch(log_path(into, rank).name, log_path(into, rank)):
            yield statistics_path(log_path(into, rank)).name
            rank += 1

    def _retried(self, work: "Callable[[AbstractFileSystem, str], T]", name: str) -> T:
        """What `work` gives for the file system and the path in it. StoreError when all tries fail."""
        try:
            import fsspec
        except ImportError:
            raise StoreError(f"reading {self.url} needs fsspec: pip install fsspec") from None
        for pause in (*PAUSES, None):
            try:
                files, root = fsspec.url_to_fs(self.url)
                return work(files, root.rstrip("/"))
            except (ImportError, ValueError) as error:  # a package that is not here, a protocol that is none
                raise StoreError(f"{self.url} cannot be read: {_told(error)}") from None
            except _network_errors() as error:
                if pause is None or isinstance(error, PermissionError):
                    raise StoreError(f"{name} of {self.url} cannot be read: {_told(error)}") from error
                time.sleep(pause)
        raise AssertionError


def _network_errors() -> tuple[type[Exception], ...]:
    """What the file systems that are loaded raise; not all are OSErrors."""
    names = {"aiohttp": "ClientError", "botocore.exceptions": "BotoCoreError"}
    names |= dict.fromkeys(("httpx", "httpx2"), "HTTPError")
    loaded = [getattr(sys.modules[name], error) for name, error in names.items() if name in sys.modules]
    return (OSError, EOFError, *loaded)


def _told(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
