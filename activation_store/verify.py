"""Looking after a store: verify that every byte is as written, repair what is not."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py

from activation_store.commit_log import CommitLog, log_path, log_paths
from activation_store.entries import SHARDS, Entry, current, range_of, shard_files, shard_path
from activation_store.errors import StoreError
from activation_store.files import digest, sweep, write_json
from activation_store.listing import read_settings
from activation_store.locks import lock
from activation_store.manifest import manifest_paths, read_manifest
from activation_store.moments import Moments
from activation_store.samples import Sample, prompts_digest, unpack, unpack_samples
from activation_store.schema import Schema
from activation_store.shard import blob, layout, open_shard, read_moments, room_of
from activation_store.store_statistics import LogStatistics, statistics_path

#: Called with (done, all) shards; for progress bars.
Progress = Callable[[int, int], None]

#: Shards after which sums that are made anew are written.
WRITTEN_EVERY = 1000

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
    schema, version = read_settings(folder)
    listed, findings = _read_what_can_be(folder, schema, version)
    good = []
    for done, entry in enumerate(listed):
        try:
            check_shard(shard_path(folder, schema, entry), schema, entry)
            good.append(entry)
        except StoreError as error:
            findings.append(Finding(f"{SHARDS}/{entry.name}", str(error)))
        if progress:
            progress(done + 1, len(listed))
    names = {entry.name for entry in listed}
    for file in shard_files(folder):
        if file.name not in names:
            findings.append(Finding(f"{SHARDS}/{file.name}", "is in no log (a killed writer's last shard?)"))
    return _report(good, findings)


def repair(path: str | os.PathLike, progress: Progress | None = None) -> Report:
    """Keep every good shard, listed or not, and write one log anew from them (also for a store of version 1,
    which becomes one of version 2).

    Damaged files are moved to `damaged/`, never deleted. Raises StoreError while anything writes to the
    store. The report's findings say what was done, `missing` what collecting again will make.
    """
    folder = Path(path)
    schema, version = read_settings(folder)
    with lock(folder / "store.lock"):
        listed, findings = _read_what_can_be(folder, schema, version)
        for place in (folder, folder / SHARDS):
            sweep(place)
        by_name = {entry.name: entry for entry in listed}
        files = shard_files(folder)
        good: dict[Entry, Path] = {}
        for done, file in enumerate(files):
            try:
                good[_examine(schema, file, by_name.pop(file.name, None))] = file
            except StoreError as error:
                _set_aside(folder, file)
                findings.append(Finding(f"{SHARDS}/{file.name}", f"moved to {DAMAGED}/: {error}"))
            if progress:
                progress(done + 1, len(files))
        findings += [Finding(f"{SHARDS}/{name}", "is missing") for name in by_name]
        remaining = _without_overlaps(sorted(good))
        for entry in sorted(set(good) - set(remaining)):
            _set_aside(folder, good[entry])
            superseded = f"moved to {DAMAGED}/: superseded by a longer one"
            findings.append(Finding(f"{SHARDS}/{entry.name}", superseded))
        _rewrite_logs(folder, schema, remaining)
    return _report(remaining, findings)


def check_shard(file: Path, schema: Schema, entry: Entry) -> None:
    """Raise StoreError unless the shard's file is what its entry says, to the last byte."""
    with open_shard(file, schema, entry) as data:
        samples = _samples(data)
        for block in schema.blocks:
            read_moments(data, schema, entry, block)
    if digest(file) != entry.digest:
        raise StoreError(f"shard {entry.name} is damaged: its digest is not the log's")
    if prompts_digest(samples) != entry.prompts:
        raise StoreError(f"shard {entry.name} holds other prompts than the log says")
    if _absent(samples) != entry.absent:
        raise StoreError(f"shard {entry.name} lacks other images than the log says")


def _absent(samples: Sequence[Sample]) -> tuple[tuple[int, str], ...]:
    return tuple((sample.index, sample.absent) for sample in samples if sample.absent is not None)


def _samples(file: h5py.File) -> list[Sample]:
    unpack(*blob(file, "thumbnails"))
    return unpack_samples(*blob(file, "samples"))


def _examine(schema: Schema, file: Path, entry: Entry | None) -> Entry:
    """The entry of a good shard, checked against the log's if there is one. StoreError if bad."""
    if entry is not None:
        check_shard(file, schema, entry)
        return entry
    if (where := range_of(file.name)) is None or not 0 < where[1] - where[0] <= schema.shard_samples:
        raise StoreError(f"{file.name} is not a name of a shard of this store")
    found = Entry(*where, file.lstat().st_size, digest(file), "")
    if file.is_file() and not file.is_symlink():
        found = replace(found, room=room_of(file, schema, found.samples))
    try:
        return _read_all(schema, file, found)
    except StoreError:
        try:
            return _read_all(schema, file, replace(found, layout=1))
        except StoreError:
            pass
        raise


def _read_all(schema: Schema, file: Path, found: Entry) -> Entry:
    """The entry of a shard that no log vouches for, after looking at every checksum."""
    with open_shard(file, schema, found) as data:
        for name in layout(schema, found.samples, found.layout, found.laid_out):
            data[name][()]
        samples = _samples(data)
    if [sample.index for sample in samples] != list(range(found.start, found.stop)):
        raise StoreError(f"{file.name} holds other images than its name says")
    return replace(found, prompts=prompts_digest(samples), absent=_absent(samples))


def _read_what_can_be(folder: Path, schema: Schema, version: int) -> tuple[list[Entry], list[Finding]]:
    entries, findings = [], []
    for path in manifest_paths(folder) if version == 1 else log_paths(folder):
        try:
            entries += (
                read_manifest(path, schema)[0] if version == 1 else CommitLog.read(path, schema).entries
            )
        except StoreError as error:
            findings.append(Finding(path.name, str(error)))
    return list({entry.start: entry for entry in sorted(entries)}.values()), findings


def _without_overlaps(entries: Sequence[Entry]) -> list[Entry]:
    remaining: list[Entry] = []
    for entry in {entry.start: entry for entry in entries}.values():
        if not remaining or remaining[-1].stop <= entry.start:
            remaining.append(entry)
    return current(remaining, Path())


def _rewrite_logs(folder: Path, schema: Schema, entries: Sequence[Entry]) -> None:
    """One log with everything, then the others go: readers see every entry at all times."""
    log = CommitLog(log_path(folder, 0), schema)
    log.replace(entries, {"repaired": True})
    write_json(folder / "store.json", schema.to_file(), tag="setup")
    for path in [*manifest_paths(folder), *log_paths(folder)]:
        if path != log.path:
            path.unlink()
    for path in folder.glob("statistics-*.bin"):
        path.unlink()
    write_statistics(folder, schema, log)


def write_statistics(folder: Path, schema: Schema, log: CommitLog, progress: Progress | None = None) -> None:
    """Write the file of sums of a log's shards anew, from what it has and from the shards; now and then on
    the way, so that a stop loses little."""
    own = list({entry.start: entry for entry in log.entries}.values())
    path = statistics_path(log.path)
    found = LogStatistics.read(path, schema, own)

    def read(entry: Entry) -> dict[str, Moments]:
        with open_shard(shard_path(folder, schema, entry), schema, entry) as file:
            return {block: read_moments(file, schema, entry, block) for block in schema.blocks}

    for done in range(0, len(own) + WRITTEN_EVERY, WRITTEN_EVERY):
        if found.catch_up(own[: done + WRITTEN_EVERY], read):
            found.write(path, "")
        if progress:
            progress(min(len(own), done + WRITTEN_EVERY), len(own))


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
