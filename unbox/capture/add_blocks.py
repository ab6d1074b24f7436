"""Adding blocks to a store that is there: its images are made again, from its own prompts and seeds."""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from activation_store import Sample, Schema, Store, StoreError, Writer
from activation_store.added_blocks import ADDED, folder_name
from activation_store.samples import unpack_samples
from activation_store.shard import blob
from unbox.capture.another_run import refuse_another
from unbox.capture.collect_settings import CollectOptions, run_facts, schema_of
from unbox.capture.image_batches import ImageBatches
from unbox.capture.keeper import Keeper, require_recording
from unbox.errors import UnboxError
from unbox.models.model import Model
from unbox.models.sampling_options import prompt_options
from unbox.ranks import ranks
from unbox.stopping import unit_at_exit


def add_blocks(model: Model, path: str | os.PathLike, options: CollectOptions) -> Store:
    """Record further blocks of the images of the store at `path`; returns it, with them.

    Of the options `blocks`, `what`, `layers`, `batch_size`, `rank`, `world`, `on_bad` and `progress` count;
    steps, guidance, sizes, seed and number format are the store's own. What is recorded lies in the store's
    folder as a store of its own (`activation_store.added_blocks`). Called again it makes what is missing,
    also of images that the store was given since. Images absent in the store are absent there too.

    Raises UnboxError where the model is not the store's (`Model.identity`), or the store has a block.
    """
    store = Store.open(path)
    chosen = _settings_of(store, options)
    schema, versions = _schema(model, store, chosen)
    if there := [name for name in schema.blocks if name in store.schema.blocks]:
        raise UnboxError(f"{path} has {there[0]} already; it has {', '.join(store.schema.blocks)}")
    folder = Path(path) / ADDED / folder_name(schema)
    if there := [name for part in store.added if Path(part.path) != folder for name in part.schema.blocks
                 if name in schema.blocks]:  # fmt: skip
        raise UnboxError(f"{there[0]} was added to {path} before, beside other blocks")
    require_recording(schema, chosen.batch_size)
    rank, world = chosen.place
    on_bad: Literal["stop", "skip"] = "stop" if chosen.on_bad == "stop" else "skip"
    total = store.entries[-1].stop if store.entries else 0
    writer = Writer(folder, schema, rank=rank, world=world, total=total, versions=versions, on_bad=on_bad)
    with unit_at_exit(writer), unit_at_exit(Keeper(writer, None)) as keeper:
        batches = ImageBatches(model, chosen, schema, chosen.on_bad)
        with tqdm(
            total=_left(store, writer), disable=not chosen.progress or ranks().local > 0, unit="image",
            desc=f"adding {', '.join(schema.blocks)}"[:40],
        ) as bar:  # fmt: skip
            samples = _missing(store, writer)
            while batch := list(islice(samples, chosen.batch_size)):
                keeper.append(batches.make(batch))
                bar.update(len(batch))
    return Store.open(path)


def _settings_of(store: Store, options: CollectOptions) -> CollectOptions:
    """The options with all that the store decides."""
    facts, schema = store.provenance, store.schema
    names = ("steps", "guidance", "negative_prompt", "height", "width", "seed")
    if missing := [name for name in names if name not in facts]:
        raise UnboxError(
            f"{store.path} does not record its {', '.join(missing)}: no blocks can be added to it"
        )
    kept: dict[str, Any] = {name: facts[name] for name in names} | vars(prompt_options(facts))
    kept |= {"keep_steps": schema.steps, "branches": schema.branches, "store_dtype": schema.dtype}
    kept |= {"positions": schema.positions, "shard_samples": schema.shard_samples, "thumbnail": None}
    return replace(options, **kept)


def _schema(model: Model, store: Store, chosen: CollectOptions) -> tuple[Schema, dict[str, Any]]:
    """The addition's settings, and the software. Raises UnboxError where the run would not be the store's."""
    facts, versions = run_facts(model, chosen)
    facts["thumbnail"] = store.provenance.get("thumbnail")
    schema = replace(schema_of(model, chosen), provenance=facts)
    refuse_another(Path(store.path), store.schema, schema, but=("blocks",))
    return replace(schema, provenance=store.provenance), versions


def _shards(store: Store, writer: Writer) -> Iterator[tuple[int, int]]:
    """This rank's shards of the store that the addition lacks, and the first image that is missing."""
    size = store.schema.shard_samples
    for number, entry in enumerate(store.entries):
        if entry.start // size % writer.world != writer.rank:
            continue
        have = writer.entries.get(entry.start)
        if have is not None and have.stop == entry.stop and have.prompts != entry.prompts:
            raise StoreError(f"{writer.path} is of other prompts or seeds than {store.path}: move it away")
        if have is None or have.stop < entry.stop:
            yield number, entry.start if have is None else have.stop


def _left(store: Store, writer: Writer) -> int:
    return sum(store.entries[number].stop - first for number, first in _shards(store, writer))


def _missing(store: Store, writer: Writer) -> Iterator[Sample]:
    """The images to make, absent ones among them; of shards that are there the store's are not opened."""
    for number, first in list(_shards(store, writer)):
        with store.shards.shard(number) as file:
            samples = unpack_samples(*blob(file, "samples"))
        yield from (sample for sample in samples if sample.index >= first)
