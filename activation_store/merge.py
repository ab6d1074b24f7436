"""Stores made of other stores: merge and subset."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from activation_store.entries import Entry
from activation_store.errors import StoreError
from activation_store.files import canonical, digest, read_json, sweep, write_json
from activation_store.number_formats import decode, encode
from activation_store.rows import Name
from activation_store.schema import Schema
from activation_store.shard import read_moments
from activation_store.shard_writer import Axes, EncodedImage, stored_images
from activation_store.store import Store
from activation_store.verify import Progress
from activation_store.writer import Writer


@dataclass(frozen=True)
class _Part:
    """Some images of one shard of a store, and their numbers in the new one."""

    store: Store
    shard: int
    places: np.ndarray
    """Places in the shard, ascending."""
    first: int
    """Number in the new store of the first; the others follow."""

    @property
    def entry(self) -> Entry:
        return self.store.entries[self.shard]

    def is_whole(self, schema: Schema) -> bool:
        """Whether the shard can be taken as it is: the whole of it, full, its images' numbers the same."""
        entry = self.entry
        return (self.first, len(self.places)) == (
            entry.start,
            entry.samples,
        ) and entry.samples == schema.shard_samples == self.store.schema.shard_samples


#: Beside a copied store: of which stores and images it is a copy, so that the same call goes on after a stop.
COPY = "copy.json"


def merge(
    paths: Sequence[str | os.PathLike], out: str | os.PathLike, progress: Progress | None = None
) -> Store:
    """One store of several with equal settings, rows in the order of `paths`.

    Parts of one run (equal settings, no image twice) keep their numbers, so that collecting can go on in the
    merged store; their shards are linked (`os.link`), or copied where they lie on another disk. Others are
    numbered on from 0 without holes and absent images, and the provenance lists theirs; they are copied, not
    decoded. Stopped, the same call goes on. Raises StoreError for a folder that holds anything else.
    """
    stores = [Store.open(path) for path in paths]
    if not stores:
        raise StoreError("no stores were given to merge")
    schema = stores[0].schema
    for store in stores[1:]:
        if difference := _shape_difference(schema, store.schema):
            both = f"{stores[0].path} and {store.path}"
            raise StoreError(f"{both} cannot be merged: they differ in {difference}")
    if _is_one_run(stores):
        return _join(stores, schema, out, progress)
    provenance = {"merged": [{"digest": s.digest, "provenance": s.provenance} for s in stores]}
    schema = replace(schema, provenance=provenance)
    _begin(out, stores, np.arange(sum(map(len, stores))))
    parts, first = [], 0
    for store in stores:
        parts += list(_parts(store, np.arange(len(store)), first))
        first += len(store)
    return _copy(parts, schema, out, progress, uncut=True)


def subset(
    path: str | os.PathLike,
    out: str | os.PathLike,
    *,
    blocks: Sequence[str] | None = None,
    steps: Iterable[int] | None = None,
    branches: Iterable[str] | None = None,
    samples: Iterable[int] | slice | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> Store:
    """A new store with some blocks, steps, branches and images of another, in its or another number format.

    The provenance says of what it is a part. Images are numbered anew from 0. Shards of which nothing is cut
    are linked, as `merge` does. Stopped, the same call goes on.
    Raises StoreError for a folder that holds anything else.
    """
    store = Store.open(path)
    every = [store[block] for block in blocks or store.schema.blocks]
    steps = None if steps is None else set(steps)
    branches = None if branches is None else set(branches)
    there = {step for row in every for step in row.steps}, {name for row in every for name in row.branches}
    rows = [
        row.filter(
            steps=_those_of(row.steps, steps, there[0]),
            branches=_those_of(row.branches, branches, there[1]),
            samples=samples,
        )
        for row in every
    ]
    if not rows:
        raise StoreError("no block was chosen")
    if apart := next((row for row in rows if row.shards is not store.shards), None):
        raise StoreError(f"{apart.block} was added to {path} later: copy its own store, {apart.shards.place}")
    schema = replace(
        store.schema.only(
            [row.block for row in rows],
            None if steps is None else {step for row in rows for step in row.steps},
            None if branches is None else {branch for row in rows for branch in row.branches},
        ),
        dtype=dtype or store.schema.dtype,
        provenance={**store.provenance, "subset_of": store.digest},
    )
    chosen = np.asarray(rows[0].samples, np.int64)
    uncut = not _shape_difference(schema, store.schema)
    if not uncut:
        schema = schema.sized_for(len(chosen))
    _begin(out, [store], chosen)
    return _copy(list(_parts(store, chosen, 0)), schema, out, progress, uncut)


def _those_of(have: Sequence[Name], wanted: set[Name] | None, there: set[Name]) -> set[Name] | None:
    """What of the wanted steps (branches) one block has, where every one is `there` in some block; all that
    are wanted, of which the rows then say what they lack, where there is none."""
    return wanted if wanted is None or wanted - there else wanted & set(have) or wanted


def _is_one_run(stores: Sequence[Store]) -> bool:
    """Whether stores are parts of one run: equal settings, and no image twice."""
    if len({canonical(store.schema.to_json()) for store in stores}) > 1:
        return False
    entries = sorted(entry for store in stores for entry in store.entries)
    return all(one.stop <= other.start for one, other in itertools.pairwise(entries))


def _join(
    stores: Sequence[Store], schema: Schema, out: str | os.PathLike, progress: Progress | None
) -> Store:
    """Link every shard of the parts of one run."""
    parts = sorted(
        (entry.start, k, number) for k, s in enumerate(stores) for number, entry in enumerate(s.entries)
    )
    _begin(out, stores, np.array([start for start, _, _ in parts], np.int64))
    with Writer(out, schema) as writer:
        done, total = 0, sum(map(len, stores))
        for _, k, number in parts:
            entry = stores[k].entries[number]
            if writer.entries.get(entry.start) != entry:
                link_shard(writer, stores[k], number)
            done += entry.present
            if progress:
                progress(done, total)
    return Store.open(out)


def link_shard(writer: Writer, store: Store, number: int) -> None:
    """Let a writer take a whole shard of a store with the same settings."""
    entry = store.entries[number]
    with store.shards.shard(number) as file, store.shards.file(entry) as path:
        moments = {block: read_moments(file, store.schema, entry, block) for block in store.schema.blocks}
        writer.link(entry, path, moments)


def _parts(store: Store, images: np.ndarray, first: int) -> Iterator[_Part]:
    """The images of each shard among some of a store, that are numbered on from `first`."""
    shard, place = store.shards.places(images)
    bounds = np.flatnonzero(np.diff(shard, prepend=-1, append=-1)).tolist()
    for begin, end in itertools.pairwise(bounds):
        yield _Part(store, int(shard[begin]), place[begin:end], first + begin)


def _begin(out: str | os.PathLike, stores: Sequence[Store], chosen: np.ndarray) -> None:
    """Say in an empty folder what will be copied there. Raises StoreError where it holds anything else."""
    folder = Path(out)
    images = digest(np.ascontiguousarray(chosen, np.int64).tobytes())
    record = {"stores": [store.digest for store in stores], "images": images}
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder, "")  # what is left of one that was killed right here
    if not any(folder.iterdir()):
        write_json(folder / COPY, record)
        return
    if not (folder / COPY).is_file():
        raise StoreError(f"{out} exists already and is not empty; choose another folder")
    there = read_json(folder / COPY)
    if other := [name for name in record if there.get(name) != record[name]]:
        raise StoreError(f"{out} holds a copy of other {' and '.join(other)}; choose another folder")


def _copy(
    parts: Sequence[_Part], schema: Schema, out: str | os.PathLike, progress: Progress | None, uncut: bool
) -> Store:
    """Write images, numbered on from 0; what is there already is left as it is. `uncut`: blocks, steps,
    branches and number format are the stores', so that nothing is decoded and whole shards are linked."""
    total, done = sum(len(part.places) for part in parts), 0
    with Writer(out, schema, total=total) as writer:
        for part in parts:
            if uncut and part.is_whole(schema):
                if part.first not in writer.entries:
                    link_shard(writer, part.store, part.shard)
            else:
                for image in _images(part, schema, writer.holds):
                    writer.copy(image)
            done += len(part.places)
            if progress:
                progress(done, total)
    return Store.open(out)


def _images(part: _Part, schema: Schema, holds: Callable[[int], bool]) -> Iterator[EncodedImage]:
    """A part's images that are not there yet, as the new store has them."""
    old, entry = part.store.schema, part.entry
    axes = {block: _axes(part.store.schema, schema, block) for block in schema.blocks}
    numbers = {int(place): part.first + k for k, place in enumerate(part.places)}
    wanted = {place for place, number in numbers.items() if not holds(number)}
    if not wanted:
        return
    with part.store.shards.shard(part.shard) as file:
        for image in stored_images(file, old, entry, wanted, axes):
            number = numbers[image.sample.index - entry.start]
            image = replace(image, sample=replace(image.sample, index=number))
            yield image if schema.dtype == old.dtype else _recoded(image, old.dtype, schema.dtype)


def _axes(old: Schema, new: Schema, block: str) -> Axes:
    """Places in a store of a block's steps and branches in another one."""
    steps, branches = old.steps_of(block), old.branches_of(block)
    return (
        [steps.index(step) for step in new.steps_of(block)],
        [branches.index(branch) for branch in new.branches_of(block)],
    )


def _recoded(image: EncodedImage, old: str, new: str) -> EncodedImage:
    values, scales = {}, {}
    for block, stored in image.values.items():
        array = decode(stored, image.scales.get(block), old)
        values[block], scale = encode(array, new, f"the update of {block} in image {image.sample.index}")
        if scale is not None:
            scales[block] = scale
    return replace(image, values=values, scales=scales)


def _shape_difference(one: Schema, other: Schema) -> str:
    a, b = ({"sites": {}, **each.to_json()} for each in (one, other))
    differing = [key for key in a if key not in ("provenance", "shard_samples") and a[key] != b[key]]
    return ", ".join(f"{key} ({a[key]} and {b[key]})" for key in differing)
