"""Looking after a store: verify that every byte is as written, repair what is not."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py

from activation_store.errors import StoreError
from activation_store.files import digest, sweep
from activation_store.locks import lock
from activation_store.manifest import (
    SHARDS,
    Entry,
    current,
    manifest_path,
    manifest_paths,
    range_of,
    read_manifest,
    write_manifest,
)
from activation_store.samples import Sample, prompts_digest, unpack, unpack_samples
from activation_store.schema import Schema
from activation_store.shard import blob, layout, open_shard
from activation_store.store import read_schema

#: Called with (done, all) shards; for progress bars.
Progress = Callable[[int, int], None]

#: Where repair puts damaged shards.
DAMAGED = "damaged"


@dataclass(frozen=True)
class Finding:
    """Something about a store that is not as it should be."""

    file: str
    problem: str


@dataclass(frozen=True)
class Report:
    """What verify or repair found."""

    shards: int
    """Good shards."""
    images: int
    """Images in them."""
    findings: tuple[Finding, ...]
    missing: tuple[tuple[int, int], ...]
    """Ranges [start, stop) of images absent before the last one present."""

    @property
    def good(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def verify(path: str | os.PathLike, progress: Progress | None = None) -> Report:
    """Check every shard's size, digest, structure and samples. Changes nothing."""
    folder = Path(path)
    schema = read_schema(folder)
    listed, findings = _read_what_can_be(folder, schema)
    good = []
    for done, entry in enumerate(listed):
        try:
            check_shard(folder, schema, entry)
            good.append(entry)
        except StoreError as error:
            findings.append(Finding(f"{SHARDS}/{entry.name}", str(error)))
        if progress:
            progress(done + 1, len(listed))
    names = {entry.name for entry in listed}
    for name in sorted({file.name for file in (folder / SHARDS).glob("*.h5")} - names):
        findings.append(Finding(f"{SHARDS}/{name}", "is in no manifest (a killed writer's last shard?)"))
    return _report(good, findings)


def repair(path: str | os.PathLike, progress: Progress | None = None) -> Report:
    """Keep every good shard, listed or not, and write the manifest anew from them.

    Damaged files are moved to `damaged/`, never deleted. Raises StoreError while anything writes to the
    store. The report's findings say what was done, `missing` what collecting again will make.
    """
    folder = Path(path)
    schema = read_schema(folder)
    with lock(folder / "store.lock"):
        listed, findings = _read_what_can_be(folder, schema)
        for place in (folder, folder / SHARDS):
            sweep(place)
        by_name = {entry.name: entry for entry in listed}
        files = sorted((folder / SHARDS).glob("*.h5"))
        good = []
        for done, file in enumerate(files):
            try:
                good.append(_examine(folder, schema, file, by_name.pop(file.name, None)))
            except StoreError as error:
                _set_aside(folder, file)
                findings.append(Finding(f"{SHARDS}/{file.name}", f"moved to {DAMAGED}/: {error}"))
            if progress:
                progress(done + 1, len(files))
        findings += [Finding(f"{SHARDS}/{name}", "is missing") for name in by_name]
        remaining = _without_overlaps(sorted(good))
        for entry in sorted(set(good) - set(remaining)):
            _set_aside(folder, folder / SHARDS / entry.name)
            superseded = f"moved to {DAMAGED}/: superseded by a longer one"
            findings.append(Finding(f"{SHARDS}/{entry.name}", superseded))
        _rewrite_manifests(folder, schema, remaining)
    return _report(remaining, findings)


def check_shard(folder: Path, schema: Schema, entry: Entry) -> None:
    """Raise StoreError unless the shard's file is what its entry says, to the last byte."""
    with open_shard(folder / SHARDS / entry.name, schema, entry.samples, entry.bytes) as file:
        samples = _samples(file)
    if digest(folder / SHARDS / entry.name) != entry.digest:
        raise StoreError(f"shard {entry.name} is damaged: its digest is not the manifest's")
    if prompts_digest(samples) != entry.prompts:
        raise StoreError(f"shard {entry.name} holds other prompts than the manifest says")


def _samples(file: h5py.File) -> list[Sample]:
    unpack(*blob(file, "thumbnails"))
    return unpack_samples(*blob(file, "samples"))


def _examine(folder: Path, schema: Schema, file: Path, entry: Entry | None) -> Entry:
    """The entry of a good shard, checked against the manifest's if there is one. StoreError if bad."""
    if entry is not None:
        check_shard(folder, schema, entry)
        return entry
    if (where := range_of(file.name)) is None or not 0 < where[1] - where[0] <= schema.shard_samples:
        raise StoreError(f"{file.name} is not a name of a shard of this store")
    found = Entry(*where, file.lstat().st_size, digest(file), "")
    with open_shard(file, schema, found.samples, found.bytes) as data:
        for name in layout(schema, found.samples):
            data[name][()]  # every checksum of a file that no manifest vouches for
        samples = _samples(data)
    if [sample.index for sample in samples] != list(range(*where)):
        raise StoreError(f"{file.name} holds other images than its name says")
    return replace(found, prompts=prompts_digest(samples))


def _read_what_can_be(folder: Path, schema: Schema) -> tuple[list[Entry], list[Finding]]:
    entries, findings = [], []
    for path in manifest_paths(folder):
        try:
            entries += read_manifest(path, schema)
        except StoreError as error:
            findings.append(Finding(path.name, str(error)))
    return list({entry.start: entry for entry in sorted(entries)}.values()), findings


def _without_overlaps(entries: Sequence[Entry]) -> list[Entry]:
    remaining: list[Entry] = []
    for entry in {entry.start: entry for entry in entries}.values():
        if not remaining or remaining[-1].stop <= entry.start:
            remaining.append(entry)
    return current(remaining, Path())


def _rewrite_manifests(folder: Path, schema: Schema, entries: Sequence[Entry]) -> None:
    """One manifest with everything, then the others go: readers see every entry at all times."""
    write_manifest(folder, 0, schema, entries, {"repaired": True})
    for path in manifest_paths(folder):
        if path != manifest_path(folder, 0):
            path.unlink()


def _set_aside(folder: Path, file: Path) -> None:
    (folder / DAMAGED).mkdir(exist_ok=True)
    place = folder / DAMAGED / file.name
    for number in range(1, 1000):
        if not place.exists():
            break
        place = folder / DAMAGED / f"{file.name}.{number}"
    os.replace(file, place)


def _report(entries: Sequence[Entry], findings: Sequence[Finding]) -> Report:
    ends = [0, *(entry.stop for entry in entries)]
    holes = [(end, entry.start) for end, entry in zip(ends, entries, strict=False) if end < entry.start]
    return Report(len(entries), sum(e.samples for e in entries), tuple(findings), tuple(holes))
