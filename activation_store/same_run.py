"""Whether a store is of the run that writes it: its settings, and the prompts of its shards."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from activation_store.entries import Entry, shard_path
from activation_store.errors import StoreError
from activation_store.files import JSON, canonical, sweep, write_json
from activation_store.listing import read_settings
from activation_store.samples import Sample, prompts_digest, unpack_samples
from activation_store.schema import VERSION, Schema
from activation_store.shard import blob, open_shard


def settle_schema(path: Path, schema: Schema) -> int:
    """Begin the store in a folder, or see that it is of the same settings; the version of the folder.

    Raises StoreError, naming what differs. The caller holds the lock of the settings.
    """
    sweep(path, "setup")
    if not (path / "store.json").exists():
        write_json(path / "store.json", schema.to_file(), tag="setup")
        return VERSION
    (kept, version), wanted = read_settings(path), schema
    if canonical(kept.to_json()) != canonical(wanted.to_json()):
        raise StoreError(f"{path} was begun with other settings: {_difference(kept, wanted)}; "
                         "use the same, or choose another folder")  # fmt: skip
    return version


def refuse_other_prompts(path: Path, schema: Schema, entry: Entry, given: Sequence[Sample]) -> None:
    """Raise StoreError, naming the first image that differs, unless a shard is of the samples `given`.

    Reads the shard only where its digest does not decide, or to tell what differs.
    """
    if len(given) >= entry.samples and prompts_digest(given[: entry.samples]) == entry.prompts:
        return
    with open_shard(shard_path(path, schema, entry), schema, entry) as file:
        stored = unpack_samples(*blob(file, "samples"))
    for old, new in zip(stored, given, strict=False):
        if prompts_digest([old]) != prompts_digest([new]):
            raise StoreError(
                f"{path} holds other prompts, seeds or facts: image {old.index} was {_told(old)}, "
                f"is {_told(new)}; go on with the prompts it was begun with, or choose another folder"
            )


def _told(sample: Sample) -> str:
    facts = f" {canonical(sample.meta).decode()[:60]}" if sample.meta else ""
    return f"{sample.prompt[:60]!r}{facts} (seed {sample.seed})"


def _difference(kept: Schema, wanted: Schema) -> str:
    """The fields that differ, each by its full name (`provenance.model.scheduler.class`), and both values."""
    old, new = (json.loads(canonical(schema.to_json())) for schema in (kept, wanted))
    return "; ".join(f"{name} was {was}, is {now}" for name, was, now in _fields(old, new, ""))


def _fields(old: JSON, new: JSON, name: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _fields(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        was, now = ("none" if value is None else str(value)[:80] for value in (old, new))
        yield name.removeprefix("provenance."), was, now
