"""Training SAEs on rows as a model generates them, on one device or many."""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from math import ceil, prod
from pathlib import Path
from typing import Any

import torch

from activation_store import Rows, Store
from unbox.capture.collect import collect, length
from unbox.capture.collect_settings import CollectSettings, schema_of
from unbox.capture.stream import Streams
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.models.model import Model
from unbox.models.sampling_options import prompt_options
from unbox.online.online_images import OnlineImages
from unbox.prompt import Prompt
from unbox.run_folder import RunFolder, named, refuse_others, run_folder
from unbox.sae.checkpoint import HELD_OUT_STORE, RUN
from unbox.sae.distributed import group, local_device
from unbox.sae.held_out import HELD_OUT
from unbox.sae.model import SAE
from unbox.sae.plan import Plan
from unbox.sae.train import HELD_OUT_ROWS, train
from unbox.sae.warm_start import InitFrom
from unbox.validation import FilePath, checked

SHARED_LATENTS = (
    "processes that share latents see every row, and each would make every image: leave --share out, or "
    "collect a store first"
)


def train_online(
    model: Model,
    prompts: Iterable[str | Prompt],
    out: str | os.PathLike,
    plan: Plan,
    images: OnlineImages | None = None,
    *,
    held_out: float | None = None,
    resume: bool = False,
    tokens: int | None = None,
    keep: Sequence[int] = (),
    trackers: Sequence[str] = (),
    device: str | torch.device | None = None,
    progress: bool = True,
    init_from: InitFrom | None = None,
    keep_optimizer: bool = False,
) -> dict[str, SAE]:
    """Trains the SAEs of a plan on the updates of images as they are generated; returns them by name.

    The first images (`held_out`: their share of all, 2 % unless given; no more than 65,536 rows of a block
    need) are kept from training, in an ordinary store in the folder `held-out` of `out`, on which the figures
    are taken. All other images are made once an epoch, for all blocks together; under `torchrun` each process
    makes its share. Called again with the same arguments, a stopped run goes on from its last checkpoint: the
    order of images and rows is a function of the seeds, so that on a CPU, or on a GPU with deterministic
    algorithms, the result is the same to the last bit.

    With `resume` the plan is the one recorded in `out` (`plan` says its blocks), for more `tokens` if given.
    `keep`, `trackers`, `init_from` and `keep_optimizer` are those of `unbox.sae.train`.

    `images`: how images are made and mixed; its `prompts`, `split` and `column` are for readers of prompts.
    Raises UnboxError, naming what differs, where `out` holds another run.
    """
    folder, images = checked(FilePath, "out", out, "train"), images or OnlineImages()
    blocks = tuple(dict.fromkeys(spec.block for spec in plan.saes))
    if not blocks or not all(blocks):
        raise UnboxError("each SAE that is trained from generation names its block")
    settings = images.settings(blocks)
    listed = islice(prompts, images.limit)
    share = HELD_OUT if held_out is None else held_out
    kept = list(islice(listed, held_out_images(model, settings, length(prompts, images.limit), share)))
    rows = streams(model, chain(kept, listed), images, blocks, len(kept), images.buffer_bytes)
    processes = group(local_device(device))
    if plan.share == "latents" and processes.world > 1:
        raise UnboxError(SHARED_LATENTS)
    with nullcontext() if processes.rank else run_folder(folder, "train") as held:
        if held is not None:
            _claim(held, folder, _parts(model, rows, images))
        processes.collect("claimed")
        if kept:
            given: dict[str, Any] = {**vars(settings), "on_bad": images.on_bad, "progress": progress}
            collect(model, kept, folder / HELD_OUT_STORE, **given)
        processes.collect("kept")  # all have made their share, and each opens the whole
        test = _rows_of(folder / HELD_OUT_STORE) if kept else 0.0
        options: dict[str, Any] = {"device": device, "progress": progress, "trackers": trackers, "keep": keep}
        options |= {"init_from": init_from, "keep_optimizer": keep_optimizer}
        options |= ({"resume": True} if resume else {"plan": plan}) | ({"tokens": tokens} if tokens else {})
        saes = train(rows, folder, held_out=test, **options)
    if said := rows.said_of_bad():
        warnings.warn(said, stacklevel=2)
    return saes


def _claim(held: RunFolder, folder: Path, parts: Mapping[str, JSON]) -> None:
    """Take a folder for the run of these parts, or find that it is its own."""
    if (folder / RUN).exists() and not held.recorded():
        raise UnboxError(f"{folder} holds a run on the rows of a store; choose another folder")
    if held.recorded():  # of versions that had no such options too
        refuse_others(folder, "train", vars(prompt_options(held.recorded())), parts)
    held.claim(parts)


def streams(
    model: Model,
    prompts: Iterable[str | Prompt],
    images: OnlineImages,
    blocks: Sequence[str],
    first: int,
    buffer_bytes: int,
) -> Streams:
    """The rows of some blocks, from the `first` image on, mixed in buffers of so many bytes."""
    given: dict[str, Any] = {**vars(images.settings(blocks)), "first": first, "on_bad": images.on_bad}
    return Streams(model, prompts, buffer_bytes=buffer_bytes, **given)


def held_out_images(model: Model, settings: CollectSettings, total: int | None, share: float) -> int:
    """How many images are kept from training: a share of all, at most what the figures need."""
    schema = schema_of(model, settings)
    least = min(prod(schema.shape(block, 1)[1:-1]) for block in schema.blocks)
    needed = ceil(HELD_OUT_ROWS / least) if share else 0
    return needed if total is None else min(needed, ceil(share * total))


def _rows_of(place: Path) -> dict[str, Rows]:
    """The rows of a store, by block."""
    store = Store.open(place)
    return {block: store[block] for block in store.blocks}


def _parts(model: Model, rows: Streams, images: OnlineImages) -> dict[str, JSON]:
    """What must be the same in a run that goes on, by the names of the options."""
    generation = rows.generation
    facts = {k: v for k, v in rows.provenance.items() if k not in ("model", "seed", "thumbnail")}
    return {
        "model": named(model.system.name, model.identity),
        "prompts": named(f"{len(generation.prompts):,} prompts", generation.prompts.digest),
        "image_seed": images.image_seed,
        **vars(prompt_options(facts)),
        **facts,
        "blocks": {name: "x".join(map(str, shape)) for name, shape in generation.schema.blocks.items()},
        "kept steps": list(generation.schema.steps),
        "branches": list(generation.schema.branches),
        "positions": generation.schema.positions,
        "row_dtype": images.row_dtype,
        "image_batch": images.image_batch,
        "buffer": images.buffer_bytes,
        "held out": rows.generation.groups[0].start,
    }
