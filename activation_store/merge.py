"""Stores made of other stores: merge and subset."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

from activation_store.errors import StoreError
from activation_store.files import canonical, digest, read_json, sweep, write_json
from activation_store.samples import Sample
from activation_store.schema import Schema
from activation_store.store import Store
from activation_store.verify import Progress
from activation_store.writer import ShardBuffer, Writer

#: An image to copy: its number in the new store, the store it is in, its number there.
Image = tuple[int, Store, int]

#: Beside a copied store: of which stores and images it is a copy, so that the same call goes on after a stop.
COPY = "copy.json"


def merge(
    paths: Sequence[str | os.PathLike], out: str | os.PathLike, progress: Progress | None = None
) -> Store:
    """One store of several with equal settings, rows in the order of `paths`.

    Parts of one run (equal settings, no image twice) keep their numbers, so that collecting can go on in the
    merged store. Others are numbered on from 0, and the provenance lists theirs. Stopped, the same call goes
    on. Raises StoreError for a folder that holds anything else.
    """
    stores = [Store.open(path) for path in paths]
    if not stores:
        raise StoreError("no stores were given to merge")
    schema = stores[0].schema
    for store in stores[1:]:
        if difference := _shape_difference(schema, store.schema):
            both = f"{stores[0].path} and {store.path}"
            raise StoreError(f"{both} cannot be merged: they differ in {difference}")
    same_run = len({canonical(store.schema.to_json()) for store in stores}) == 1
    indices = [sample.index for store in stores for sample in store.samples] if same_run else []
    if not same_run or len(set(indices)) != len(indices):
        provenance = {"merged": [{"digest": s.digest, "provenance": s.provenance} for s in stores]}
        schema, indices = replace(schema, provenance=provenance), list(range(sum(map(len, stores))))
    sources = [(store, i) for store in stores for i in range(len(store))]
    order = np.argsort(np.array(indices, np.int64), kind="stable")
    _begin(out, stores, order)
    return _copy(((indices[k], *sources[k]) for k in order.tolist()), len(order), schema, out, progress)


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

    The provenance says of what it is a part. Images are numbered anew from 0. Stopped, the same call goes on.
    Raises StoreError for a folder that holds anything else.
    """
    store = Store.open(path)
    rows = [store[b].filter(steps=steps, branches=branches, samples=samples) for b in blocks or store.blocks]
    if not rows:
        raise StoreError("no block was chosen")
    schema = replace(
        store.schema,
        blocks={row.block: store.schema.blocks[row.block] for row in rows},
        steps=rows[0].steps,
        branches=rows[0].branches,
        dtype=dtype or store.schema.dtype,
        shard_samples=0,
        provenance={**store.provenance, "subset_of": store.digest},
    )
    chosen = rows[0].samples
    _begin(out, [store], np.asarray(chosen))
    return _copy(((k, store, i) for k, i in enumerate(chosen)), len(chosen), schema, out, progress)


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
    images: Iterator[Image], total: int, schema: Schema, out: str | os.PathLike, progress: Progress | None
) -> Store:
    """Write images (new number, store, number there), ascending; what is there already is left as it is."""
    size = schema.shard_samples
    with Writer(out, schema) as writer:
        for done, (_, shard) in enumerate(groupby(images, key=lambda image: image[0] // size)):
            group = list(shard)
            numbers = [number for number, _, _ in group]
            if numbers != list(range(numbers[0], numbers[-1] + 1)) or numbers[0] % size:
                raise StoreError(
                    f"images {numbers[0]}..{numbers[-1]} do not fill a shard of {size} without "
                    "holes; complete the stores with the command that collected them before merging"
                )
            samples = [replace(store.samples[i], index=number) for number, store, i in group]
            if not writer.has(numbers[0], samples):
                with writer.shard(numbers[0], numbers[-1] + 1) as filling:
                    for sample, (_, store, i) in zip(samples, group, strict=True):
                        _copy_image(filling, schema, sample, store, i)
            if progress:
                progress(min(total, (done + 1) * size), total)
    return Store.open(out)


def _copy_image(filling: ShardBuffer, schema: Schema, sample: Sample, store: Store, i: int) -> None:
    rows = {b: store[b].filter(steps=schema.steps, branches=schema.branches) for b in schema.blocks}
    positions = {b: row.positions(i)[None] for b, row in rows.items()} if schema.positions else None
    thumbnail = store.thumbnail_or_empty(i)
    filling.append([sample], {b: row.read(i)[None] for b, row in rows.items()}, [thumbnail], positions)


def _shape_difference(one: Schema, other: Schema) -> str:
    a, b = one.to_json(), other.to_json()
    differing = [key for key in a if key not in ("provenance", "shard_samples") and a[key] != b[key]]
    return ", ".join(f"{key} ({a[key]} and {b[key]})" for key in differing)
