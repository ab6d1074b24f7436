"""Statistics of all shards of a rank, summed in one small file, so that asking for them opens no shard.

A shard that is full is never replaced, and its statistics go into the sums; those of a shard that may still
become a longer one are kept beside them. The file is replaced now and then: what the log is ahead of it is in
the shards themselves.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from activation_store.entries import Entry
from activation_store.errors import StoreError
from activation_store.files import JSON, canonical, digest, parse_json, write_bytes
from activation_store.moments import BINS, CHANNEL_BINS, Moments, channel_groups, empty
from activation_store.schema import Schema

FORMAT = "unbox activation store statistics"
VERSION = 2

#: Shards after which a writer replaces the file, and so those that a reader may have to open. A shard's own
#: statistics are at least half as long as the file: it adds at most an eighth of them to what is written.
EVERY = 16

#: Statistics by block.
Sums = Mapping[str, Moments]


def statistics_path(log: Path) -> Path:
    """Where the statistics lie of the shards that a log lists."""
    return log.with_name(log.stem.replace("commits", "statistics") + ".bin")


@dataclass
class LogStatistics:
    """Statistics of the shards of one log: of the first `full` full ones, and of some that are not full."""

    schema: Schema
    sums: dict[str, Moments] = field(default_factory=dict)
    partial: dict[str, Sums] = field(default_factory=dict)
    """By the digest of the shard's entry."""
    full: int = 0

    def __post_init__(self) -> None:
        self._seen = hashlib.sha256()
        for block, shape in self.schema.blocks.items():
            self.sums.setdefault(block, empty(self.schema.shape(block, 1)[1:3], shape[2]))

    def add(self, entry: Entry, moments: Sums) -> None:
        """Add a shard that was committed."""
        if entry.samples < self.schema.shard_samples:
            self.partial[entry.digest] = moments
            return
        self.sums = {block: self.sums[block] + moments[block] for block in self.sums}
        self.full += 1
        self._seen.update(entry.digest.encode())

    def catch_up(self, entries: Iterable[Entry], read: Callable[[Entry], Sums]) -> bool:
        """Add what is not in here of a log's entries; `read` opens a shard. Whether there was anything."""
        full = [entry for entry in entries if entry.samples == self.schema.shard_samples]
        partial = [entry for entry in entries if entry.samples < self.schema.shard_samples]
        self.partial = {e.digest: self.partial[e.digest] for e in partial if e.digest in self.partial}
        new = [*full[self.full :], *(entry for entry in partial if entry.digest not in self.partial)]
        for entry in new:
            self.add(entry, read(entry))
        return bool(new)

    def total(self) -> Sums:
        """Of all shards together."""
        return {b: sum((part[b] for part in self.partial.values()), self.sums[b]) for b in self.sums}

    def write(self, path: Path, tag: str) -> None:
        """Write the file, whole or not at all."""
        records = [self.sums, *self.partial.values()]
        header: dict[str, JSON] = {
            "format": FORMAT,
            "version": VERSION,
            "schema": digest(canonical(self.schema.to_json())),
            "full": self.full,
            "seen": self._seen.hexdigest(),
            "partial": list(self.partial),
            "counts": [[record[b].count for b in self.sums] for record in records],
            "channels": [[record[b].channels is not None for b in self.sums] for record in records],
        }
        parts = [canonical(header), b"\n"]
        for record in records:
            parts += [array.tobytes() for block in self.sums for array in _arrays(record[block])]
        whole = hashlib.sha256()
        for part in parts:
            whole.update(part)
        write_bytes(path, b"".join([whole.hexdigest().encode(), b"\n", *parts]), tag)

    @classmethod
    def read(cls, path: Path, schema: Schema, entries: Iterable[Entry]) -> Self:
        """What the file says of a log's entries; nothing where it is missing, damaged or of other shards: all
        that it says is in the shards too."""
        found = cls(schema)
        try:
            wanted = found._read(path.read_bytes(), path.name)
        except (OSError, StoreError, KeyError, TypeError, ValueError, IndexError):
            return cls(schema)
        full = [e.digest for e in entries if e.samples == schema.shard_samples][: found.full]
        found._seen = hashlib.sha256("".join(full).encode())
        return found if found._seen.hexdigest() == wanted else cls(schema)

    def _read(self, data: bytes, name: str) -> str:
        """Take over what a file says; SHA-256 of the digests of its full shards."""
        sha, _, rest = data.partition(b"\n")
        text, _, numbers = rest.partition(b"\n")
        header = parse_json(text, name)
        if digest(rest).encode() != sha or header["schema"] != digest(canonical(self.schema.to_json())):
            raise StoreError(f"{name} is damaged")
        if (header["format"], header["version"]) != (FORMAT, VERSION):
            raise StoreError(f"{name} has another format")
        at, records = 0, []
        for counts, channels in zip(header["counts"], header["channels"], strict=True):
            record = {}
            for block, count, counted in zip(self.sums, counts, channels, strict=True):
                record[block], at = _moments(numbers, at, self.schema, block, count, counted)
            records.append(record)
        self.sums, self.full = records[0], header["full"]
        self.partial = dict(zip(header["partial"], records[1:], strict=True))
        return str(header["seen"])


def _arrays(moments: Moments) -> list[np.ndarray]:
    channels = [] if moments.channels is None else [moments.channels.astype("<u4", copy=False)]
    plain = [moments.mean.astype("<f8", copy=False), moments.m2.astype("<f8", copy=False)]
    return [*plain, moments.norms.astype("<i8", copy=False), *channels]


def _moments(
    numbers: bytes, at: int, schema: Schema, block: str, count: int, counted: bool
) -> tuple[Moments, int]:
    groups, width = schema.shape(block, 1)[1:3], schema.blocks[block][2]
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
        "mean": ("<f8", (*groups, width)),
        "m2": ("<f8", (*groups, width)),
        "norms": ("<i8", (*groups, BINS)),
    }
    if counted:
        shapes["channels"] = ("<u4", (*channel_groups(groups), width, CHANNEL_BINS))
    arrays = {}
    for name, (dtype, shape) in shapes.items():
        size = int(np.prod(shape))
        arrays[name] = np.frombuffer(numbers, dtype, size, at).reshape(shape)
        at += arrays[name].nbytes
    return Moments(count, **arrays), at
