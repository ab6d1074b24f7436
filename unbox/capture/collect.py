"""Collecting: images are generated in batches and their updates written while the next ones are made."""

import io
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

from PIL import Image
from tqdm.auto import tqdm

from activation_store import Sample, Schema, Store, Writer, files
from activation_store.listing import read_schema
from activation_store.samples import TOKENS_CUT
from activation_store.writer import WAITING
from unbox.capture.buffers import Buffers, buffered
from unbox.capture.collect_settings import FORMER, CollectSettings, run_facts, schema_of
from unbox.errors import FieldError, UnboxError
from unbox.former_names import renamed
from unbox.memory_limit import require
from unbox.models.model import Model
from unbox.models.prompt_length import count_cut, counted, describe_cut, tokens_cut
from unbox.models.seeds import image_seed
from unbox.prompt import Prompt
from unbox.ranks import ranks
from unbox.validation import Count, Processes, Rank, behind, checked


def collect(
    model: Model,
    prompts: Iterable[str | Prompt],
    path: str | os.PathLike,
    *,
    limit: int | None = None,
    progress: bool = True,
    rank: int | None = None,
    world: int | None = None,
    **settings: Any,
) -> Store:
    """Generate an image for each prompt and keep the blocks' updates in the store at `path`.

    Prompts that are longer than the text encoders read are cut off by them: one warning says how many of a
    list there are, and the sample's fact `tokens_cut` by how much.

    `settings` are the fields of `CollectSettings`: blocks, steps, guidance, seed, store_dtype, ...
    `limit` stops after so many prompts. Called again with the same arguments it makes what is missing: after
    a kill, after `unbox store repair`, with more prompts, with another number of ranks. `rank` of `world`
    processes write one store together (default: RANK and WORLD_SIZE of the environment, as `torchrun` sets).
    Raises UnboxError or StoreError when the store holds another run, another process writes, or an update
    cannot be kept; every finished shard is safe then.
    """
    chosen = CollectSettings(**renamed(settings, FORMER, warn=True))
    limit = checked(Count | None, "limit", limit, "collect")  # type: ignore[arg-type]  # a rule
    rank, world = ranks_of(rank, world)
    provenance, versions = run_facts(model, chosen)
    total = length(prompts, limit)
    if total == 0:
        raise UnboxError("there are no prompts to collect")
    schema = replace(sized(schema_of(model, chosen), chosen, path, total), provenance=provenance)
    size = schema.shard_samples
    require_recording(schema, chosen.batch_size)
    with Writer(path, schema, rank=rank, world=world, total=total, versions=versions) as writer, counted():
        if rank == 0 and (said := said_of_cut(model, prompts, limit, chosen, progress)):
            warnings.warn(said, stacklevel=2)
        made, cut = 0, 0
        with _bar(total, size, rank, world, progress) as bar, _Keeper(writer, chosen) as keeper:
            samples = writer.missing(numbered(prompts, limit, chosen.seed))
            while batch := measured(model, list(islice(samples, chosen.batch_size))):
                made, cut = made + len(batch), cut + sum(TOKENS_CUT in each.meta for each in batch)
                keeper.append(batch, *generate_batch(model, chosen, schema, batch))
                so_far = images_of_rank(batch[-1].index + 1, size, rank, world)
                pass_over(bar, so_far - int(bar.n) - len(batch))
                bar.update(len(batch))
            if total is not None:
                pass_over(bar, images_of_rank(total, size, rank, world) - int(bar.n))
    if cut and not isinstance(prompts, Sized):
        warnings.warn(describe_cut(model, cut, made), stacklevel=2)
    return Store.open(path)


def said_of_cut(
    model: Model,
    prompts: Iterable[str | Prompt],
    limit: int | None,
    settings: CollectSettings,
    progress: bool = False,
) -> str:
    """What a warning says of the prompts of a list, and the negative prompt, that are cut off, or nothing.

    Prompts without a length (of a generator, the Hub) can be read only once, and are counted as they come.
    """
    listed = islice(prompts, limit) if isinstance(prompts, Sized) else ()
    texts = (prompt.text if isinstance(prompt, Prompt) else prompt for prompt in listed)
    cut, count = count_cut(model, (text for text in texts if isinstance(text, str)), progress)
    if settings.negative_prompt and tokens_cut(model, [settings.negative_prompt])[0] > 0:
        return f"the negative prompt is cut off; {describe_cut(model, cut, count)}"
    return describe_cut(model, cut, count) if cut else ""


def measured(model: Model, samples: Sequence[Sample]) -> list[Sample]:
    """Samples with the number of tokens that the text encoders cut off as a fact, where there are any."""
    cut = tokens_cut(model, [sample.prompt for sample in samples])
    return [
        replace(each, meta={**each.meta, TOKENS_CUT: count}) if count > 0 else each
        for each, count in zip(samples, cut, strict=True)
    ]


def ranks_of(rank: int | None, world: int | None) -> tuple[int, int]:
    """The number of this process, and of all: as given, or as the environment says.

    Raises FieldError for what are none, or do not go together.
    """
    rank = checked(Rank, "rank", ranks().rank if rank is None else rank, "collect")
    world = checked(Processes, "world", ranks().world if world is None else world, "collect")
    if rank >= world:
        raise FieldError("collect", "rank", rank, f"should be less than the number of processes, {world}")
    return rank, world


def require_recording(schema: Schema, batch_size: int) -> None:
    """Raises UnboxError where batches' updates, as they are recorded and written, are too much memory."""
    what = f"recording the updates of {batch_size:,} images at once"
    require((3 + WAITING) * batch_size * schema.sample_bytes, what)


def sized(schema: Schema, settings: CollectSettings, path: str | os.PathLike, total: int | None) -> Schema:
    """The schema with shards as the settings say, or the store that is there, or for so many images."""
    if settings.shard_samples:
        return schema
    if (Path(path) / "store.json").exists():
        return replace(schema, shard_samples=read_schema(Path(path)).shard_samples)
    return schema if total is None else schema.sized_for(total)


def images_of_rank(total: int, size: int, rank: int, world: int) -> int:
    """How many of `total` images are one rank's, in shards of `size` dealt to the ranks in turn."""
    rounds, rest = divmod(total, size * world)
    return rounds * size + min(max(rest - rank * size, 0), size)


def pass_over(bar: tqdm, count: int) -> None:
    """Move a bar over images that are there already, so that its speed and time left are of new ones."""
    if not bar.disable and count:
        bar.initial += count
        bar.last_print_n += count
        bar.n += count
        bar.update(0)


def _bar(total: int | None, size: int, rank: int, world: int, progress: bool) -> tqdm:
    """A bar over this rank's images; of `torchrun`'s processes on a machine only the first shows it."""
    images = None if total is None else images_of_rank(total, size, rank, world)
    title = "collecting" if world == 1 else f"collecting, rank {rank} of {world}"
    silent = not progress or ranks().local > 0
    return tqdm(total=images, disable=silent, desc=title, unit="image")


def numbered(prompts: Iterable[str | Prompt], limit: int | None, seed: int) -> Iterator[Sample]:
    """Samples of prompts, which are read as they are needed.

    Raises UnboxError for a prompt that is not text or whose facts are not JSON.
    """
    return (_sample(i, prompt, seed) for i, prompt in enumerate(islice(prompts, limit)))


def thumbnail(image: Image.Image, side: int) -> bytes:
    """A PIL image as WebP, its longer side at most `side` pixels."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    data = io.BytesIO()
    small.save(data, "WEBP", quality=80, method=4)
    return data.getvalue()


def generate_batch(
    model: Model, settings: CollectSettings, schema: Schema, batch: Sequence[Sample]
) -> tuple[list[Any], Buffers]:
    """Images of a batch and their updates."""
    seeds = [sample.seed for sample in batch]
    with buffered(model, schema, seeds) as buffers:
        images = model.generate([sample.prompt for sample in batch], seeds=seeds, **settings.call())
    return images, buffers


class _Keeper:
    """Hands batches to the writer while the next one is generated: one waits, at most."""

    def __init__(self, writer: Writer, settings: CollectSettings) -> None:
        self._writer, self._side = writer, settings.thumbnail
        self._executor = ThreadPoolExecutor(1, "unbox-collect")
        self._pending: Future | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._executor:
            if self._pending is not None and kind is None:
                self._pending.result()

    def append(self, batch: Sequence[Sample], images: Sequence[Image.Image], buffers: Buffers) -> None:
        """Take a batch. Raises what went wrong with those before."""
        if self._pending is not None:
            self._pending.result()
        self._pending = self._executor.submit(self._keep, batch, images, buffers)

    def _keep(self, batch: Sequence[Sample], images: Sequence[Image.Image], buffers: Buffers) -> None:
        pictures = None if self._side is None else [thumbnail(image, self._side) for image in images]
        self._writer.append(batch, buffers.arrays(), pictures, buffers.positions)


def _sample(index: int, prompt: str | Prompt, seed: int) -> Sample:
    with behind(f"prompt {index}"):
        prompt = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
    if TOKENS_CUT in prompt.meta:
        raise UnboxError(
            f"{TOKENS_CUT} of prompt {index} is counted by collecting: give the fact another name"
        )
    sample = Sample(index, prompt.text, image_seed(seed, index), dict(prompt.meta))
    try:
        files.canonical([sample.prompt, sample.meta])
    except (TypeError, ValueError) as error:
        raise UnboxError(f"the facts of prompt {index} cannot be kept as JSON: {error}") from None
    return sample


def length(prompts: Iterable[str | Prompt], limit: int | None) -> int | None:
    """How many images there will be, or None when the prompts have no known end."""
    known = len(prompts) if isinstance(prompts, Sized) else limit
    return known if limit is None or known is None else min(known, limit)
