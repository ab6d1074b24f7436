"""One shard: an immutable HDF5 file with the updates, samples, thumbnails and statistics of some images.

Layout, all datasets chunked, with `fletcher32` and nothing else: per block `values` (samples, steps,
branches, y, x, channels), `scale` (int8 and float8), `positions` (samples, P; when positions are sampled),
`mean`, `m2`, `norms`, `channels` (not in layout 1); beside the blocks `samples`, `thumbnails` (blobs) and
their ends. Metadata is in the checksummed format of HDF5 1.10. The same contents give the same bytes.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path

import h5py
import numpy as np

from activation_store.entries import Entry
from activation_store.errors import StoreError
from activation_store.moments import BINS, CHANNEL_BINS, Moments, channel_groups, channels_counted
from activation_store.number_formats import NUMBER_FORMATS
from activation_store.schema import Schema

#: Bytes of a chunk to aim at: what is read to reach one image, and the unit of shuffling.
CHUNK_BYTES = 1 << 20

BLOBS = ("samples", "thumbnails")
#: What tells a file from another in its place: `version_of` its status.
Version = tuple[int, int, int, int]
_FLETCHER32 = h5py.h5z.FILTER_FLETCHER32


@dataclass(frozen=True)
class Layout:
    """Type, shape and chunk of one dataset; a blob's length is known only to the file (shape None)."""

    dtype: np.dtype
    shape: tuple[int, ...] | None
    chunk: tuple[int, ...] | None
    most: tuple[int, ...] | None = None
    """The shape that it was made with, where that is more."""


def chunk_samples(schema: Schema, block: str, samples: int) -> int:
    """Samples in one chunk of a block's values, in a shard of `samples`.

    At most as many as `CHUNK_BYTES` hold, at least half of that, and among those what pads the last chunk
    least.
    """
    _, _, _, *vectors = schema.shape(block, 1)
    size = prod(vectors) * NUMBER_FORMATS[schema.dtype].stored.itemsize
    most = max(1, min(CHUNK_BYTES // size, samples))
    return min(range(most, most // 2, -1), key=lambda chunk: -samples % chunk)


def layout(
    schema: Schema, samples: int, version: int = Entry.layout, room: int | None = None
) -> dict[str, Layout]:
    """Every dataset of a shard of so many samples, by its name in the file. `room`: see `Entry.laid_out`."""
    room = room or samples
    encoding = NUMBER_FORMATS[schema.dtype]
    table: dict[str, Layout] = {}

    def put(
        name: str, dtype: np.dtype | str, shape: tuple[int, ...], chunk: tuple[int, ...] | None = None
    ) -> None:
        most = (room, *shape[1:]) if chunk and room > samples else None
        table[name] = Layout(np.dtype(dtype), shape, chunk or shape, most)

    for block in schema.blocks:
        shape = schema.shape(block, samples)
        groups, grid, width = shape[1:3], shape[3:5], shape[5]
        together = chunk_samples(schema, block, room)
        put(f"{block}/values", encoding.stored, shape, (together, 1, 1, *grid, width))
        if encoding.scale_bytes:
            put(f"{block}/scale", "<f4", shape[:-1], (together, 1, 1, *grid))
        if schema.positions is not None:
            put(f"{block}/positions", "<u4", (samples, prod(grid)))
        put(f"{block}/mean", "<f8", (*groups, width))
        put(f"{block}/m2", "<f8", (*groups, width))
        put(f"{block}/norms", "<i8", (*groups, BINS))
        if version > 1:
            most = channels_counted(groups, prod(grid), 0) * samples
            counts = "<u2" if most < 1 << 16 else "<u4"
            put(f"{block}/channels", counts, (*channel_groups(groups), width, CHANNEL_BINS))
    for name in BLOBS:
        table[name] = Layout(np.dtype("u1"), None, None)
        put(f"{name}_ends", "<i8", (samples,))
    return table


@contextmanager
def open_shard(
    path: Path, schema: Schema, entry: Entry, checked: set[Version] | None = None
) -> Iterator[h5py.File]:
    """Open a shard for reading after checking that it is what its entry says and nothing else.

    Refused with StoreError: links and special files, a size other than the entry's, and inside any dataset
    of another name, type, shape, chunk, filter or layout, or that lies outside the file (external, virtual,
    linked). Errors of HDF5 while reading become StoreErrors too. `checked` remembers the files that passed,
    for as long as they do not change: the checks take longer than the opening.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        longer = [other.name for other in path.parent.glob(f"{entry.start:09d}-*.h5")]
        what = "was replaced by a longer one; open the store again" if longer else (
            "is missing; `unbox store repair` lists what is left")  # fmt: skip
        raise StoreError(f"shard {path.name} {what}") from None
    if path.is_symlink() or not path.is_file():
        raise StoreError(f"shard {path.name} is not a regular file")
    if status.st_size != entry.bytes:
        raise damaged(path, f"it has {status.st_size:,} bytes instead of {entry.bytes:,}")
    with naming_damage(path), h5py.File(path, "r", locking=False) as file:
        version = version_of(status)
        if checked is None or version not in checked:
            table = layout(schema, entry.samples, entry.layout, entry.laid_out)
            _check(file, path, table, entry.bytes)
            if checked is not None:
                checked.add(version)
        yield file


def blob(file: h5py.File, name: str) -> tuple[np.ndarray, np.ndarray, str]:
    """A blob's bytes and the ends of its parts, and what to call it in an error."""
    return file[name][()], file[f"{name}_ends"][()], f"{name} of {Path(file.filename).name}"


def read_moments(file: h5py.File, schema: Schema, entry: Entry, block: str) -> Moments:
    """A shard's own statistics of a block, by step and branch. StoreError where they are not of its rows."""
    names = ("mean", "m2", "norms", *(["channels"] if entry.layout > 1 else []))
    arrays = {name: file[f"{block}/{name}"][()] for name in names}
    rows = prod(schema.grid(block))
    count = entry.present * rows
    channels = arrays.get("channels")
    if channels is not None:
        channels = arrays["channels"] = channels.astype(np.uint32)
    groups = schema.shape(block, 1)[1:3]
    away = {number for number, _ in entry.absent}
    counted = [channels_counted(groups, rows, i) for i in range(entry.start, entry.stop) if i not in away]
    good = (arrays["norms"].sum(-1) == count).all() and (arrays["m2"] >= 0).all()
    if not good or (channels is not None and (channels.sum(-1) != sum(counted)).any()):
        raise damaged(Path(file.filename), f"its statistics of {block} are not of {count} rows")
    return Moments(count, **arrays)


def room_of(path: Path, schema: Schema, samples: int) -> int:
    """Images that a shard's file was laid out for, if they are more than its `samples`, as the file itself
    says; else 0. Nothing of it is trusted: what is read with it is checked."""
    with naming_damage(path), h5py.File(path, "r", locking=False) as file:
        dataset = h5py.h5o.open(file.id, f"{next(iter(schema.blocks))}/values".encode())
        if not isinstance(dataset, h5py.h5d.DatasetID) or dataset.rank != 6:
            return 0
        most = dataset.get_space().get_simple_extent_dims(maxdims=True)[0]
        return int(most) if samples < most <= schema.shard_samples else 0


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """What goes wrong while a shard is read becomes a StoreError that names it."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, OverflowError) as error:
        raise damaged(path, " ".join(str(error).split())[:200]) from error


def version_of(status: os.stat_result) -> Version:
    """What tells a file from another in its place, and from itself once it has changed."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def damaged(path: Path, reason: str) -> StoreError:
    """The error of a shard that cannot be trusted."""
    return StoreError(
        f"shard {path.name} is damaged: {reason}. `unbox store repair` sets it aside and keeps the others; "
        "collecting again makes it anew"
    )


def _check(file: h5py.File, path: Path, table: Mapping[str, Layout], size: int) -> None:
    """Refuse a file that holds anything but the datasets of a table, laid out as planned.

    HDF5 is asked by h5py's lower interface: in half the time, of which a store of many shards spends minutes.
    """
    groups: dict[str, set[str]] = {"": set()}
    for name in table:
        group, _, last = name.rpartition("/")
        groups[""].add(group or last)
        groups.setdefault(group, set()).add(last)
    for group, names in groups.items():
        found = h5py.h5o.open(file.id, group.encode() or b"/")
        if not isinstance(found, h5py.h5g.GroupID):
            raise damaged(path, f"{group} is not a group")
        _check_names(found, path, names)
    total = sum(_check_dataset(file, path, name, plan) for name, plan in table.items())
    if total > size:
        raise damaged(path, f"its datasets declare {total:,} bytes in a file of {size:,}")


def _check_names(group: h5py.h5g.GroupID, path: Path, names: set[str]) -> None:
    count, wanted = len(group), {name.encode() for name in names}
    if count != len(names) or set(group) != wanted:
        some = [name.decode(errors="replace") for name in islice(group, 20)]
        found = ", ".join(some) if count <= 1000 else f"{count:,} names"
        raise damaged(path, f"it holds {found[:300]} where {', '.join(sorted(names))[:300]} should be")
    for name in wanted:
        if group.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            raise damaged(path, f"{name.decode()} is a link to elsewhere")


def _check_dataset(file: h5py.File, path: Path, name: str, plan: Layout) -> int:
    """Refuse a dataset that is not laid out as planned; its bytes."""
    dataset = h5py.h5o.open(file.id, name.encode())
    if not isinstance(dataset, h5py.h5d.DatasetID):
        raise damaged(path, f"{name} is not a dataset")
    creation = dataset.get_create_plist()
    if creation.get_layout() != h5py.h5d.CHUNKED or creation.get_external_count():
        raise damaged(path, f"{name} keeps its data elsewhere (external, virtual or not chunked)")
    if dataset.dtype != plan.dtype:
        raise damaged(path, f"{name} has type {dataset.dtype}, not {plan.dtype}")
    shape, chunk = dataset.shape, creation.get_chunk()
    if plan.shape is None:
        good = len(shape) == 1 and chunk == (min(shape[0], CHUNK_BYTES),)
    else:
        good = shape == plan.shape and chunk == plan.chunk
    if not good or dataset.get_space().get_simple_extent_dims(maxdims=True) != (plan.most or shape):
        wanted = f"not {plan.shape} in {plan.chunk}"
        raise damaged(path, f"{name} has shape {shape} in chunks of {chunk}, {wanted}")
    if creation.get_nfilters() != 1 or creation.get_filter(0)[0] != _FLETCHER32:
        raise damaged(path, f"{name} is not stored with exactly the checksum filter")
    nbytes = prod(shape) * plan.dtype.itemsize
    if dataset.get_storage_size() < nbytes:
        raise damaged(path, f"{name} is not all there")
    return nbytes
