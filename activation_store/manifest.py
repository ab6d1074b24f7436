"""Which shards a store has. A shard is committed when its rank's own manifest is replaced, atomically.

The store is the union of all manifests. File names follow from the samples' range and are never read from a
manifest, so no manifest can point elsewhere.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path

from activation_store.errors import StoreError
from activation_store.files import JSON, canonical, digest, read_json, write_json
from activation_store.schema import Schema

FORMAT = "unbox activation store manifest"
VERSION = 1
SHARDS = "shards"

_LIMIT = 1 << 40
_SHARD_NAME = re.compile(r"(\d{9,13})-(\d{9,13})\.h5")


@dataclass(frozen=True, order=True)
class Entry:
    """One published shard: the samples [start, stop) of the run."""

    start: int
    stop: int
    bytes: int
    digest: str
    """SHA-256 of the file."""
    prompts: str
    """SHA-256 of its samples' prompts, seeds and facts (`samples.prompts_digest`)."""

    @property
    def samples(self) -> int:
        """How many images it holds."""
        return self.stop - self.start

    @property
    def name(self) -> str:
        """Its file's name under `shards/`."""
        return f"{self.start:09d}-{self.stop:09d}.h5"


def range_of(name: str) -> tuple[int, int] | None:
    """The samples' range that a shard's file name stands for, or None for any other name."""
    match = _SHARD_NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def manifest_path(folder: Path, rank: int) -> Path:
    """Where rank `rank` keeps its manifest."""
    return folder / f"manifest-{rank:05d}.json"


def writer_tag(rank: int) -> str:
    """What marks the temporary files of rank `rank`, and its lock."""
    return f"writer-{rank:05d}"


def manifest_paths(folder: Path) -> list[Path]:
    """All manifests of a store."""
    return sorted(folder.glob("manifest-*.json"))


def write_manifest(folder: Path, rank: int, schema: Schema, entries: Iterable[Entry], versions: JSON) -> None:
    """Replace the manifest of a rank. `versions` (JSON) says what software wrote the shards."""
    value: JSON = {
        "format": FORMAT,
        "version": VERSION,
        "schema": digest(canonical(schema.to_json())),
        "versions": versions,
        "shards": [astuple(entry) for entry in sorted(entries)],
    }
    write_json(manifest_path(folder, rank), value, indent=None, tag=writer_tag(rank))


def read_manifest(path: Path, schema: Schema) -> list[Entry]:
    """Entries of one manifest. Raises StoreError where it is damaged, newer, or of another store."""
    value = read_json(path, limit=1 << 30)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise StoreError(f"{path.name} is not a manifest; `unbox store repair` makes it anew from the shards")
    if value.get("version") != VERSION:
        version = str(value.get("version"))[:20]
        raise StoreError(f"{path.name} has version {version}; this program reads {VERSION}")
    if value.get("schema") != digest(canonical(schema.to_json())):
        raise StoreError(f"{path.name} belongs to another store than the store.json beside it")
    try:
        entries = [Entry(*row) for row in value["shards"]]
    except (KeyError, TypeError):
        raise StoreError(f"{path.name} has malformed entries; `unbox store repair` makes it anew") from None
    for entry in entries:
        _check(entry, path, schema)
    return entries


def read_manifests(folder: Path, schema: Schema) -> list[Entry]:
    """Entries of all manifests by start. Of two with one start the longer counts: it was written later."""
    entries = sorted(entry for path in manifest_paths(folder) for entry in read_manifest(path, schema))
    return current(entries, folder)


def current(entries: Sequence[Entry], folder: Path) -> list[Entry]:
    """Drop superseded entries of a sorted list. Raises StoreError where shards overlap."""
    latest = list({entry.start: entry for entry in entries}.values())
    for left, right in pairwise(latest):
        if left.stop > right.start:
            both = f"shards {left.name} and {right.name} of {folder}"
            raise StoreError(f"{both} overlap; `unbox store repair` it")
    return latest


def _check(entry: Entry, path: Path, schema: Schema) -> None:
    numbers = (entry.start, entry.stop, entry.bytes)
    if not all(type(n) is int and 0 <= n < _LIMIT for n in numbers) or not all(
        isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text) for text in (entry.digest, entry.prompts)
    ):
        raise StoreError(f"{path.name} has malformed entries; `unbox store repair` makes it anew")
    if not 0 < entry.samples <= schema.shard_samples or entry.samples * schema.sample_bytes > entry.bytes:
        raise StoreError(
            f"{path.name} declares {entry.samples:,} images in the {entry.bytes:,} bytes of {entry.name}: "
            "it cannot be; `unbox store repair` makes it anew"
        )
