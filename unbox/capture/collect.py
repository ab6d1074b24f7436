"""Collecting: images are generated in batches and their updates kept while the next ones are made."""

import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from tqdm.auto import tqdm

from activation_store import Sample, Schema, Store, Writer, files
from activation_store.listing import read_schema
from activation_store.samples import TOKENS_CUT
from unbox.capture.another_run import continued
from unbox.capture.collect_settings import (
    FORMER,
    CollectOptions,
    CollectSettings,
    run_facts,
    schema_of,
)
from unbox.capture.image_batches import ImageBatches
from unbox.capture.keeper import Keeper, require_recording
from unbox.capture.prompt_reader import HubPrompts, PromptFile
from unbox.errors import UnboxError
from unbox.keyword_options import keyword_options
from unbox.models.model import Model
from unbox.models.prompt_length import count_cut, counted, describe_cut, tokens_cut
from unbox.models.prompt_weights import weighted_texts
from unbox.models.seeds import image_seed
from unbox.prompt import Prompt
from unbox.ranks import ranks
from unbox.stopping import unit_at_exit
from unbox.validation import behind


@dataclass(frozen=True)
class Collected:
    """What a run of `collect` did."""

    store: Store
    made: int
    """Images that this process made, absent ones among them."""
    total: int | None
    """Images of the prompts; None where they have no known end."""
    absent: Mapping[int, str]
    """Images, of those, that are marked absent (numbers in the run), and why."""
    in_float32: tuple[int, ...]
    """Images, of those, that were made again in float32."""
    seconds: float
    waited: float
    """Seconds, of those, that generation waited for images before to be written."""
    images_waited: int
    """Images that waited so."""

    def lines(self) -> list[str]:
        """The run in words."""
        lines = []
        if not self.made and self.total is not None:
            more = f"; {said}" if (said := self.said_of_beyond()) else ""
            lines.append(
                f"nothing to make: this process's images of the {self.total:,} prompts are there{more}"
            )
        elif self.made:
            share = 100 * self.waited / self.seconds
            lines.append(
                f"{self.made:,} images made in {self.seconds:,.1f} s; {self.images_waited:,} waited for the "
                f"writer, {share:.1f} % of the time"
            )
        return lines + self.said_of_bad()

    def said_of_beyond(self) -> str:
        """What is said of images that the store has beyond the prompts; empty where it has none."""
        if self.total is None:
            return ""
        beyond = sum(max(0, entry.stop - max(entry.start, self.total)) for entry in self.store.entries)
        return f"it holds {beyond:,} beyond them, which stay" if beyond else ""

    def said_of_bad(self) -> list[str]:
        """What was done with images that are not as they should be; empty where there are none."""
        lines = []
        if self.in_float32:
            lines.append(
                f"made again in float32: {len(self.in_float32):,} images ({some_of(self.in_float32)})"
            )
        if self.absent:
            reason = next(iter(self.absent.values()))
            lines.append(
                f"absent: {len(self.absent):,} images ({some_of(list(self.absent))}), the first as {reason}"
            )
        return lines


@keyword_options(CollectOptions, FORMER)
def collect(
    model: Model, prompts: Iterable[str | Prompt], path: str | os.PathLike, options: CollectOptions
) -> Store:
    """Generate an image for each prompt and keep the blocks' updates in the store at `path`.

    Prompts that are longer than the text encoders read are cut off by them: one warning says how many of a
    list there are, and the sample's fact `tokens_cut` by how much.

    The options are the fields of `CollectOptions`: blocks, steps, guidance, seed, store_dtype, limit, ...
    Called again with the same arguments it makes what is missing: after a kill, after `unbox store repair`,
    with more prompts, with another number of ranks. `rank` of `world` processes write one store together
    (default: RANK and WORLD_SIZE of the environment, as `torchrun` sets).
    `on_bad`: an image with NaN or infinite numbers, or over the range of the store's format, is an error
    (`stop`), or marked absent with its reason (`skip`), or made again alone, the model in float32, and absent
    only if it is bad then too (`float32`; not for the format's range, which does not change). A warning says
    which there were; no later run tries absent ones again.
    Raises UnboxError or StoreError when the store holds another run, another process writes, or an update
    cannot be kept; every finished image is safe then.
    """
    done = collect_run(model, prompts, path, options)
    said = done.said_of_bad()
    if not done.made and done.said_of_beyond():  # the store that is returned is of more than was asked for
        said.insert(0, done.lines()[0])
    if said:
        warnings.warn("; ".join(said), stacklevel=3)
    return done.store


def collect_run(
    model: Model, prompts: Iterable[str | Prompt], path: str | os.PathLike, chosen: CollectOptions
) -> Collected:
    """As `collect`; tells what was done. A stop (`unbox.stopping`) keeps all images that were finished."""
    limit, on_bad, (rank, world) = chosen.limit, chosen.on_bad, chosen.place
    provenance, versions = run_facts(model, chosen)
    total = length(prompts, limit)
    if total == 0:
        raise UnboxError("there are no prompts to collect")
    schema = replace(sized(schema_of(model, chosen), chosen, path, total), provenance=provenance)
    schema = continued(schema, path)
    require_recording(schema, chosen.batch_size)
    skipping: Literal["stop", "skip"] = "stop" if on_bad == "stop" else "skip"
    writer = Writer(path, schema, rank=rank, world=world, total=total, versions=versions, on_bad=skipping)
    begin, made, cut = time.perf_counter(), 0, 0
    with unit_at_exit(writer), counted(), unit_at_exit(Keeper(writer, chosen.pictures)) as keeper:
        if rank == 0 and (said := said_of_cut(model, (), None, chosen)):
            warnings.warn(said, stacklevel=3)
        begin, batches = time.perf_counter(), ImageBatches(model, chosen, schema, on_bad)
        with _bar(total, schema.shard_samples, rank, world, chosen.progress) as bar:
            given = numbered(prompts, limit, chosen, writer.asks(total))
            samples = writer.missing(given)
            while batch := measured(model, list(islice(samples, chosen.batch_size)), chosen):
                keeper.append(batches.make(batch))
                made, cut = made + len(batch), cut + sum(TOKENS_CUT in each.meta for each in batch)
                so_far = images_of_rank(batch[-1].index + 1, schema.shard_samples, rank, world)
                pass_over(bar, so_far - int(bar.n) - len(batch))
                bar.update(len(batch))
            if total is not None:
                pass_over(bar, images_of_rank(total, schema.shard_samples, rank, world) - int(bar.n))
    if cut:  # counted as they came: the list is not read once more for it
        warnings.warn(describe_cut(model, cut, made), stacklevel=3)
    seconds, again = time.perf_counter() - begin, tuple(batches.in_float32)
    waited = keeper.waited, keeper.images_waited
    return Collected(Store.open(path), made, total, writer.absent, again, seconds, *waited)


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
    if (reading := settings.reading).chunks:
        return ""
    texts = (prompt.text if isinstance(prompt, Prompt) else prompt for prompt in listed)
    cut, count = count_cut(model, (reading.text(each) for each in texts if isinstance(each, str)), progress)
    if settings.negative_prompt and tokens_cut(model, [reading.text(settings.negative_prompt)])[0] > 0:
        return f"the negative prompt is cut off; {describe_cut(model, cut, count)}"
    return describe_cut(model, cut, count) if cut else ""


def measured(model: Model, samples: Sequence[Sample], settings: CollectSettings) -> list[Sample]:
    """Samples with the number of tokens that the text encoders cut off as a fact, where there are any.

    Raises UnboxError, naming the prompt, for one that cannot be read as the settings say.
    """
    reading = settings.reading
    if reading.chunks:
        for sample in samples:
            with behind(f"prompt {sample.index}"):
                reading.length(model.pipeline, sample.prompt)
        return list(samples)
    cut = tokens_cut(model, [reading.text(sample.prompt) for sample in samples])
    return [
        replace(each, meta={**each.meta, TOKENS_CUT: count}) if count > 0 else each
        for each, count in zip(samples, cut, strict=True)
    ]


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


def numbered(
    prompts: Iterable[str | Prompt],
    limit: int | None,
    settings: CollectSettings,
    asked: Sequence[range] | None = None,
) -> Iterator[Sample]:
    """Samples of prompts, read as they are needed; of files and the Hub no others than those `asked` for.

    Raises UnboxError for a prompt that is not text or whose facts are not JSON, or whose weights
    are asked for and cannot be read.
    """
    if asked is not None and isinstance(prompts, PromptFile | HubPrompts):
        numbers = chain.from_iterable(asked)
        parts = zip(numbers, prompts.parts(asked), strict=False)
        return (_sample(i, prompt, settings) for i, prompt in parts)
    return (_sample(i, prompt, settings) for i, prompt in enumerate(islice(prompts, limit)))


def _sample(index: int, prompt: str | Prompt, settings: CollectSettings) -> Sample:
    with behind(f"prompt {index}"):
        prompt = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
        if settings.prompt_weights:
            weighted_texts(prompt.text)
    if TOKENS_CUT in prompt.meta:
        raise UnboxError(
            f"{TOKENS_CUT} of prompt {index} is counted by collecting: give the fact another name"
        )
    sample = Sample(index, prompt.text, image_seed(settings.seed, index), dict(prompt.meta))
    try:
        files.canonical([sample.prompt, sample.meta])
    except (TypeError, ValueError) as error:
        raise UnboxError(f"the facts of prompt {index} cannot be kept as JSON: {error}") from None
    return sample


def length(prompts: Iterable[str | Prompt], limit: int | None) -> int | None:
    """How many images there will be, or None when the prompts have no known end."""
    known = len(prompts) if isinstance(prompts, Sized) else limit
    return known if limit is None or known is None else min(known, limit)


def some_of(numbers: Sequence[int]) -> str:
    """The first numbers of a list, for people."""
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
