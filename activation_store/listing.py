"""What a store's folder says of itself: its settings, and the shards that its logs (or manifests) list."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from activation_store.commit_log import CommitLog, read_logs
from activation_store.entries import Entry, current
from activation_store.errors import StoreError
from activation_store.files import JSON, read_json
from activation_store.manifest import manifest_paths, read_manifest
from activation_store.schema import Schema


@dataclass(frozen=True)
class Listing:
    """The shards of a store as it was when this was read."""

    entries: tuple[Entry, ...]
    """By their first image; superseded ones are left out."""
    versions: tuple[JSON, ...]
    """Software that wrote the store, as each rank noted it."""
    logs: tuple[CommitLog, ...] = ()
    """None in a store of version 1."""


def read_settings(folder: Path) -> tuple[Schema, int]:
    """Settings of the store in a folder, and the version of the folder. StoreError where there is none."""
    path = folder / "store.json"
    try:
        value = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"there is no activation store at {folder} (no store.json in it)") from None
    return Schema.from_json(value, str(path)), int(value["version"])


def read_schema(folder: Path) -> Schema:
    """Settings of the store in a folder. Raises StoreError when there is none."""
    return read_settings(folder)[0]


def read_listing(folder: Path, schema: Schema, version: int) -> Listing:
    """The shards of a store. Raises StoreError where a log or manifest is damaged, or of another store."""
    if version == 1:
        manifests = [read_manifest(path, schema) for path in manifest_paths(folder)]
        entries = [entry for some, _ in manifests for entry in some]
        return Listing(tuple(current(entries, folder)), tuple(versions for _, versions in manifests))
    logs = read_logs(folder, schema)
    return listing_of(logs, folder)


def listing_of(logs: Sequence[CommitLog], folder: Path) -> Listing:
    """The shards of some logs."""
    entries = [entry for log in logs for entry in log.entries]
    return Listing(tuple(current(entries, folder)), tuple(log.versions for log in logs), tuple(logs))
