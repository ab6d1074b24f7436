"""Which shards a store of version 1 has: a manifest for each rank, replaced whole for each shard."""

from dataclasses import replace
from pathlib import Path

from activation_store.entries import Entry, check_entry
from activation_store.errors import StoreError
from activation_store.files import JSON, canonical, digest, read_json
from activation_store.schema import Schema

FORMAT = "unbox activation store manifest"
VERSION = 1


def manifest_paths(folder: Path) -> list[Path]:
    """All manifests of a store."""
    return sorted(folder.glob("manifest-*.json"))


def read_manifest(path: Path, schema: Schema) -> tuple[list[Entry], JSON]:
    """Entries of one manifest, and the versions of the software that wrote it. Raises StoreError where it is
    damaged, newer, or of another store."""
    value = read_json(path, limit=1 << 30)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise StoreError(f"{path.name} is not a manifest; `unbox store repair` makes it anew from the shards")
    if value.get("version") != VERSION:
        version = str(value.get("version"))[:20]
        raise StoreError(f"{path.name} has version {version}; this program reads {VERSION}")
    if value.get("schema") != digest(canonical(schema.to_json())):
        raise StoreError(f"{path.name} belongs to another store than the store.json beside it")
    try:
        entries = [replace(Entry(*row), layout=1) for row in value["shards"]]
    except (KeyError, TypeError):
        raise StoreError(f"{path.name} has malformed entries; `unbox store repair` makes it anew") from None
    for entry in entries:
        check_entry(entry, path.name, schema)
    return entries, value.get("versions")
