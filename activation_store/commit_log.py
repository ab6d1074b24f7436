"""Which shards a store has: a log for each rank, a line for each shard, appended and fsynced when its file is
in its place. The store is the union of all logs.

A line is the CRC-32 of what follows, and JSON: the first says of which store the log is; then entries, and
the versions of the software whenever they are others. A last line that a dying machine left torn is as if it
were not there, and the next writer cuts it off. A log is replaced whole, atomically, only when more of its
lines are superseded than not, so all that is ever written to it grows as its shards do.
"""

import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from activation_store.entries import Entry, check_entry
from activation_store.errors import StoreError
from activation_store.files import JSON, canonical, digest, parse_json, write_bytes
from activation_store.schema import Schema

FORMAT = "unbox activation store log"
VERSION = 2

#: Superseded lines that are always left in a log.
_SLACK = 16


def log_path(folder: Path, rank: int) -> Path:
    """Where rank `rank` keeps its log."""
    return folder / f"commits-{rank:05d}.log"


def log_paths(folder: Path) -> list[Path]:
    """All logs of a store."""
    return sorted(folder.glob("commits-*.log"))


def writer_tag(rank: int) -> str:
    """What marks the temporary files of rank `rank`, and its lock."""
    return f"writer-{rank:05d}"


@dataclass
class CommitLog:
    """A rank's log as it was read, and as it goes on."""

    path: Path
    schema: Schema
    entries: list[Entry] = field(default_factory=list)
    """In the order in which they were committed; of one start, the last is the one that counts."""
    versions: JSON = None
    """Of the software that wrote last."""
    size: int = 0
    """Bytes of whole lines."""

    @classmethod
    def read(cls, path: Path, schema: Schema) -> Self:
        """A log, without a torn last line. Raises StoreError where it is damaged, or of another store."""
        log = cls(path, schema)
        data = path.read_bytes()
        *lines, _ = data.split(b"\n")
        if lines and not _is_whole(lines[-1]) and b"\0" in lines[-1]:
            lines.pop()
        log.size = sum(map(len, lines)) + len(lines)
        if not lines:
            raise StoreError(f"{path.name} is not a log; `unbox store repair` makes it anew from the shards")
        for number, line in enumerate(lines):
            if not _is_whole(line):
                raise StoreError(
                    f"line {number + 1} of {path.name} is damaged; `unbox store repair` makes it anew"
                )
            value = parse_json(line[9:], f"line {number + 1} of {path.name}")
            if number == 0:
                _check_header(value, path, schema)
            elif isinstance(value, dict):
                log.versions = value.get("versions")
            else:
                log.entries.append(_entry(value, path, schema))
        return log

    def append(self, entry: Entry) -> None:
        """Commit a shard: from now on the store has it. OSError where the disk refuses."""
        self._append([_line(_row(entry))])
        self.entries.append(entry)

    def begin(self, versions: JSON) -> None:
        """Make ready for `append`, by the software of `versions`: begin a log that is not there, cut off a
        torn line, leave superseded ones behind when they are many."""
        live = list({entry.start: entry for entry in self.entries}.values())
        if not self.size or len(self.entries) - len(live) > max(_SLACK, len(live)):
            self.replace(live, versions)
            return
        if self.path.stat().st_size != self.size:
            os.truncate(self.path, self.size)
        if canonical(self.versions) != canonical(versions):
            self._append([_line({"versions": versions})])
            self.versions = versions

    def replace(self, entries: Iterable[Entry], versions: JSON) -> None:
        """Write the log anew, whole or not at all."""
        schema = digest(canonical(self.schema.to_json()))
        header: JSON = {"format": FORMAT, "version": VERSION, "schema": schema}
        self.entries, self.versions = list(entries), versions
        values: list[JSON] = [header, {"versions": versions}, *map(_row, self.entries)]
        data = b"".join(map(_line, values))
        write_bytes(self.path, data, tag=self.path.stem.replace("commits", "writer"))
        self.size = len(data)

    def _append(self, lines: list[bytes]) -> None:
        data = b"".join(lines)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            try:
                if os.write(descriptor, data) != len(data):
                    raise OSError(28, os.strerror(28))  # ENOSPC: part of a line found room
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, self.size)
                raise
        finally:
            os.close(descriptor)
        self.size += len(data)


def read_logs(folder: Path, schema: Schema) -> list[CommitLog]:
    """All logs of a store, by rank."""
    return [CommitLog.read(path, schema) for path in log_paths(folder)]


def _line(value: JSON) -> bytes:
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _is_whole(line: bytes) -> bool:
    return line[:9] == b"%08x " % zlib.crc32(line[9:])


def _row(entry: Entry) -> list[JSON]:
    """[start, stop, bytes, digest, prompts], and what is seldom: absent images, another layout, room."""
    row: list[JSON] = [entry.start, entry.stop, entry.bytes, entry.digest, entry.prompts]
    rare: dict[str, JSON] = {}
    if entry.absent:
        rare["absent"] = [list(pair) for pair in entry.absent]
    if entry.layout != Entry.layout:
        rare["layout"] = entry.layout
    if entry.room:
        rare["room"] = entry.room
    return [*row, rare] if rare else row


def _entry(row: list[Any], path: Path, schema: Schema) -> Entry:
    try:
        start, stop, size, sha, prompts, *rest = row
        rare: dict[str, Any] = dict(*rest)
        absent = tuple((number, reason) for number, reason in rare.pop("absent", ()))
        entry = Entry(start, stop, size, sha, prompts, absent, **rare)
    except (TypeError, ValueError):
        raise StoreError(f"{path.name} has malformed entries; `unbox store repair` makes it anew") from None
    check_entry(entry, path.name, schema)
    return entry


def _check_header(value: JSON, path: Path, schema: Schema) -> None:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise StoreError(f"{path.name} is not a log; `unbox store repair` makes it anew from the shards")
    if value.get("version") != VERSION:
        raise StoreError(
            f"{path.name} has version {str(value.get('version'))[:20]}; this program reads {VERSION}"
        )
    if value.get("schema") != digest(canonical(schema.to_json())):
        raise StoreError(f"{path.name} belongs to another store than the store.json beside it")
