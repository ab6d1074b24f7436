"""The shards of a store, as its logs list them: range of images, bytes, digests; and where their files lie.

A file's name follows from the range of images and is never read from a list, so no list can point elsewhere.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from activation_store.errors import StoreError
from activation_store.schema import Schema

SHARDS = "shards"

#: Shards whose files lie in one folder.
IN_FOLDER = 1000

_LIMIT = 1 << 40
_SHARD_NAME = re.compile(r"(\d{9,13})-(\d{9,13})\.h5")
_DIGEST = re.compile("[0-9a-f]{64}")


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
    absent: tuple[tuple[int, str], ...] = ()
    """Images (numbers in the run, ascending) that have no updates, and why."""
    layout: int = 2
    """Version of the file's layout; 1 counts no channels."""
    room: int = 0
    """Images that the file was laid out for, where these were more: it was cut short."""

    @property
    def samples(self) -> int:
        """How many images it is of, absent ones among them: the length of its arrays."""
        return self.stop - self.start

    @property
    def laid_out(self) -> int:
        """Images that the file was laid out for: its chunks follow from them."""
        return self.room or self.samples

    @property
    def present(self) -> int:
        """How many images it has updates of."""
        return self.stop - self.start - len(self.absent)

    @property
    def name(self) -> str:
        """Its file's name."""
        return f"{self.start:09d}-{self.stop:09d}.h5"


def range_of(name: str) -> tuple[int, int] | None:
    """The samples' range that a shard's file name stands for, or None for any other name."""
    match = _SHARD_NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def shard_place(folder: Path, schema: Schema, start: int, name: str) -> Path:
    """Where a store's writer puts the file of the shard that begins at image `start`."""
    return folder / SHARDS / f"{start // schema.shard_samples // IN_FOLDER:05d}" / name


def shard_path(folder: Path, schema: Schema, entry: Entry) -> Path:
    """Where a shard's file lies: in its place, or, in stores of version 1, in `shards/` itself."""
    place = shard_place(folder, schema, entry.start, entry.name)
    if place.exists() or not (flat := folder / SHARDS / entry.name).exists():
        return place  # also where an upgrade moved it between the two looks
    return flat


def shard_files(folder: Path) -> list[Path]:
    """Every file of a shard that lies under a store's folder, listed or not, by name."""
    return sorted((folder / SHARDS).rglob("*.h5"), key=lambda path: path.name)


def current(entries: Iterable[Entry], folder: Path) -> list[Entry]:
    """Entries by start. Of two with one start the longer counts: it was written later. Raises StoreError
    where shards overlap."""
    latest = list({entry.start: entry for entry in sorted(entries)}.values())
    for left, right in pairwise(latest):
        if left.stop > right.start:
            both = f"shards {left.name} and {right.name} of {folder}"
            raise StoreError(f"{both} overlap; `unbox store repair` it")
    return latest


def check_entry(entry: Entry, name: str, schema: Schema) -> None:
    """Raise StoreError, naming the file of the list, for an entry that no shard of the store can have."""
    numbers = (entry.start, entry.stop, entry.bytes)
    good = all(type(n) is int and 0 <= n < _LIMIT for n in numbers) and all(
        isinstance(text, str) and _DIGEST.fullmatch(text) for text in (entry.digest, entry.prompts)
    )
    cut = type(entry.room) is int and (not entry.room or entry.samples < entry.room <= schema.shard_samples)
    if not good or not cut or entry.layout not in (1, 2) or not _absent_are_good(entry):
        raise StoreError(f"{name} has malformed entries; `unbox store repair` makes it anew")
    if not 0 < entry.samples <= schema.shard_samples or entry.samples * schema.sample_bytes > entry.bytes:
        raise StoreError(
            f"{name} declares {entry.samples:,} images in the {entry.bytes:,} bytes of {entry.name}: "
            "it cannot be; `unbox store repair` makes it anew"
        )


def _absent_are_good(entry: Entry) -> bool:
    last = entry.start - 1
    for number, reason in entry.absent:
        if type(number) is not int or not last < number < entry.stop or not isinstance(reason, str):
            return False
        last = number
    return True
