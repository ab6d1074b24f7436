"""What collecting would take: a few batches are made and written as collecting does, in a folder that is
removed again."""

import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from math import prod
from pathlib import Path

import torch

from activation_store import Sample, Schema, Store, Writer
from activation_store.samples import pack_samples
from activation_store.shard import layout
from activation_store.writer import PUBLISH_EVERY
from unbox.capture.activations import activations_of
from unbox.capture.buffers import recorded_bytes
from unbox.capture.collect import images_of_rank, length, measured, numbered, said_of_cut
from unbox.capture.collect_settings import FORMER, CollectSettings, run_facts, schema_of
from unbox.capture.image_batches import ImageBatches
from unbox.capture.keeper import IN_MEMORY, Keeper, require_recording
from unbox.errors import UnboxError
from unbox.keyword_options import keyword_options
from unbox.memory_limit import size_text
from unbox.models.model import Model
from unbox.models.prompt_length import counted
from unbox.process_memory import process_peak
from unbox.prompt import Prompt
from unbox.run_folder import check_writable
from unbox.site import LAYOUTS, Activation
from unbox.validation import Count, FilePath, validated


@dataclass(frozen=True)
class Estimate:
    """A plan for collecting, from `timed` images on this machine."""

    images: int | None
    """Images to make; None when the prompts do not end."""
    vectors_per_image: int
    """Over all blocks, steps, branches and positions."""
    bytes_per_image: int
    """On disk, values alone."""
    bytes_in_all: int
    """On disk, of all images (of one, where their number is not known), with pictures, prompts, statistics,
    checksums and padding."""
    seconds_per_image: float
    """With recording, encoding and writing, on one device."""
    seconds_beside: float
    """Once a run: reading weights and prompts before, writing what is left at its end."""
    timed: int
    batch_size: int
    shard_samples: int
    axes: dict[str, dict[str, int]]
    """What is kept -> its axes for one image, by name, and their lengths."""
    host_bytes: int
    """Largest memory of this process so far."""
    waiting_bytes: int
    """Of which, at most, updates between the model and the disk."""
    device_bytes: int | None
    """Largest memory on the GPU; None without one."""
    cut: str = ""
    """What is said of prompts that are too long for the text encoders; empty where none is."""
    bytes_of: Mapping[Activation, int] = field(default_factory=dict)
    """What is kept -> its bytes for one image."""

    def seconds(self, devices: int = 1) -> float:
        """Of the whole run on so many devices: as long as the first takes, which has most of the files."""
        most = images_of_rank(self.images or 1, self.shard_samples, 0, devices)
        return most * self.seconds_per_image + self.seconds_beside

    def lines_of_kinds(self) -> list[str]:
        """What is kept, its axes and bytes for one image; the bytes of each kind, where there are several."""
        lines = []
        for each, size in self.bytes_of.items():
            axes = self.axes[each.name]
            lines.append(f"{each}: {(*axes.values(),)} of each ({', '.join(axes)}), {size_text(size)}")
        kinds = Counter[str]()
        for each, size in self.bytes_of.items():
            kinds[each.kind] += size
        if len(kinds) > 1:
            each_kind = ", ".join(f"{kind} {size_text(size)}" for kind, size in kinds.items())
            lines.append(f"an image: {each_kind}; {size_text(kinds.total())} in all")
        return lines

    def lines(self, gpus: int = 1) -> list[str]:
        """The plan in words, for so many devices."""
        count = self.images if self.images is not None else 1
        what = f"{count:,} images" if self.images is not None else "each image (the prompts have no end)"
        shards = -(-count // self.shard_samples)
        in_file = self.shard_samples if self.images is None else min(self.shard_samples, count)
        lost = min(in_file * self.seconds_per_image, PUBLISH_EVERY)
        device = "" if self.device_bytes is None else f", {size_text(self.device_bytes)} of the GPU's"
        return [
            *self.lines_of_kinds(),
            f"{what}: {count * self.vectors_per_image:,} vectors, {size_text(self.bytes_in_all)} on disk",
            f"{self.seconds_per_image:.3g} s an image in batches of {self.batch_size} ({self.timed} timed, "
            f"written too): {time_text(self.seconds(gpus))} on {gpus} such device{'s' * (gpus > 1)}",
            f"{size_text(self.host_bytes)} of memory, {size_text(self.waiting_bytes)} of it at most for "
            f"updates that wait to be written{device}; for each process",
            f"{shards:,} file{'s' * (shards != 1)} of {in_file} images, at most {-(-shards // gpus):,} for "
            "each device; "
            f"a kill loses at most {time_text(lost)} of each device's work",
            *([self.cut] if self.cut else []),
        ]


@validated(kw_only=True)
class EstimateOptions(CollectSettings):
    """What is planned, and how it is tried."""

    limit: Count | None = None
    """At most so many prompts; None: all."""
    images: Count | None = None
    """Images to make and write after a batch to warm up; None: two batches."""
    beside: FilePath | None = None
    """A place on whose disk is written, in a folder that is removed again; None: the system's for temporary
    files."""


@keyword_options(EstimateOptions, FORMER)
def estimate(model: Model, prompts: Iterable[str | Prompt], chosen: EstimateOptions) -> Estimate:
    """Make and write a few images after a batch to warm up, and reckon the whole.

    The options are the fields of `EstimateOptions`: those of `CollectSettings`, `limit`, `images`, `beside`.
    Prompts are taken again from the first where there are too few. Raises UnboxError when there is no prompt.
    """
    limit, images, beside = chosen.limit, chosen.images, chosen.beside
    schema = schema_of(model, chosen)
    require_recording(schema, chosen.batch_size)
    total = length(prompts, limit)
    if total is not None and not chosen.shard_samples:
        schema = schema.sized_for(total)
    size = min(chosen.batch_size, total or chosen.batch_size)
    begin = time.perf_counter()
    with counted():
        cut = said_of_cut(model, prompts, limit, chosen)
        run_facts(model, chosen)
        start = time.perf_counter() - begin
        batches = _batches(model, islice(prompts, limit), chosen, size, images or 2 * size)
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(model.device)
        trial = _Trial(model, chosen, schema, batches, beside)
    activations = activations_of(model, chosen.blocks, chosen.what, chosen.layers)
    return Estimate(
        images=total,
        vectors_per_image=schema.sample_vectors,
        bytes_per_image=schema.sample_bytes,
        bytes_in_all=trial.bytes_of(schema, total or 1),
        seconds_per_image=trial.seconds_per_image,
        seconds_beside=start + trial.seconds_to_end,
        timed=sum(map(len, batches[1:])),
        batch_size=size,
        shard_samples=schema.shard_samples,
        axes={activation.name: _axes(schema, activation) for activation in activations},
        bytes_of={activation: schema.block_bytes(activation.name) for activation in activations},
        host_bytes=process_peak(),
        waiting_bytes=IN_MEMORY * size * recorded_bytes(schema),
        device_bytes=torch.cuda.max_memory_reserved(model.device) if model.device.type == "cuda" else None,
        cut=cut,
    )


def _axes(schema: Schema, activation: Activation) -> dict[str, int]:
    """Names and lengths of the axes of what is kept of one image."""
    steps, branches, *places = schema.shape(activation.name, 1)[1:]
    names = LAYOUTS[activation.site.layout]
    return {"step": steps, "branch": branches} | dict(zip(names, places[-len(names) :], strict=True))


class _Trial:
    """Batches that were made and written beside each other, as `collect` does, and what it took."""

    def __init__(
        self,
        model: Model,
        settings: CollectSettings,
        schema: Schema,
        batches: Sequence[Sequence[Sample]],
        beside: FilePath | None,
    ) -> None:
        count = sum(map(len, batches))
        kept = replace(schema, shard_samples=count)
        maker = ImageBatches(model, settings, kept, "skip")
        with tempfile.TemporaryDirectory(prefix=".unbox-dry-run-", dir=_place(beside)) as folder:
            with (
                Writer(folder, kept, total=count, on_bad="skip") as writer,
                Keeper(writer, settings.pictures) as keeper,
            ):
                keeper.append(maker.make(batches[0]))
                warm = time.perf_counter()
                for batch in batches[1:]:
                    keeper.append(maker.make(batch))
                made = time.perf_counter()
            end = time.perf_counter()
            store = Store.open(folder)
            entry = store.entries[0]
            pictures = sum(len(store.thumbnail_or_empty(i)) for i in range(len(store)))
            self._beside = (pictures + len(pack_samples(list(store.samples))[0])) / max(1, len(store))
            self._in_file = entry.bytes - _dataset_bytes(kept, count) - self._beside * count
            files = [path for path in Path(folder).rglob("*") if path.is_file()]
            self._in_folder = sum(path.stat().st_size for path in files) - entry.bytes
            self._sums = sum(path.stat().st_size for path in files if path.name.startswith("statistics"))
        # Where writing takes longer than making, what is left to be written at the end is what it lags by.
        self.seconds_per_image = max((made - warm) / (count - len(batches[0])), (end - warm) / count)
        self.seconds_to_end = end - made

    def bytes_of(self, schema: Schema, total: int) -> int:
        """Bytes of a store of so many images, all files."""
        whole, rest = divmod(total, schema.shard_samples)
        files = whole * (_dataset_bytes(schema, schema.shard_samples) + self._in_file)
        if rest:  # its sums are kept by themselves, for it may grow
            files += _dataset_bytes(schema, rest) + self._in_file + self._sums
        return round(files + total * self._beside + self._in_folder)


def _batches(
    model: Model, prompts: Iterable[str | Prompt], settings: CollectSettings, size: int, timed: int
) -> list[list[Sample]]:
    """A batch to warm up, and those to be timed."""
    count = size + timed
    first = list(islice(prompts, count))
    if not first:
        raise UnboxError("there is no prompt to time")
    samples = measured(model, list(numbered(cycle(first), count, settings)), settings)
    return [samples[:size], *(samples[at : at + size] for at in range(size, count, size))]


def _place(beside: FilePath | None) -> Path | None:
    """The folder that is there, of a place's."""
    if beside is None:
        return None
    check_writable(beside)
    return next(folder for folder in (beside, *beside.absolute().parents) if folder.is_dir())


def _dataset_bytes(schema: Schema, count: int) -> int:
    """Bytes of a shard's datasets but its pictures and prompts: whole chunks, a checksum for each."""
    sizes = 0
    for plan in layout(schema, count).values():
        if plan.shape is not None and plan.chunk is not None:
            chunks = prod(-(-length // step) for length, step in zip(plan.shape, plan.chunk, strict=True))
            sizes += chunks * (prod(plan.chunk) * plan.dtype.itemsize + 4)
    return sizes


def time_text(seconds: float) -> str:
    """A time for people, with three figures."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} minutes" if seconds < 7200 else f"{seconds / 3600:,.3g} hours"
