"""What training the SAEs of a plan takes, straight from generation and by way of a store: a trial of both."""

import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import cycle, islice
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unbox.capture.buffers import recorded_bytes
from unbox.capture.collect import length
from unbox.capture.collect_settings import schema_of
from unbox.capture.estimate import Estimate, estimate, time_text
from unbox.capture.stream import BUFFERS
from unbox.errors import UnboxError
from unbox.memory_limit import size_text
from unbox.models.model import Model
from unbox.online.online_images import OnlineImages
from unbox.online.train_online import held_out_images, streams
from unbox.prompt import Prompt
from unbox.sae.held_out import HELD_OUT
from unbox.sae.initialization import SAMPLE, measure
from unbox.sae.plan import Plan
from unbox.sae.row_source import ArrayRows
from unbox.sae.training_run import STATS_ROWS, TrainingRun

#: Buffers of a trial: one before the clock runs, those that are timed, and one that is filled meanwhile.
TIMED = 2
#: Training steps that are timed by themselves, after as many to warm up.
STEPS = 3
#: Bytes of a latent's numbers: weights of an SAE, and with both moments in a checkpoint.
SAE_BYTES, CHECKPOINT_BYTES = 2 * 4, 6 * 4


@dataclass(frozen=True)
class OnlineEstimate:
    """A plan of training, from images that were made and steps that were taken on this machine."""

    images: int
    """Images that are made for training, over all epochs."""
    beside: int
    """Images that are made besides: held out, to start from, for the latents' statistics."""
    seconds_per_image: float
    """Generating and training beside each other, on one device of those planned for."""
    seconds_per_image_alone: float
    """Generating alone."""
    seconds_per_round: float
    """A step of every SAE alone, on one device's share of a batch."""
    rounds: int
    buffer_bytes: int
    buffer_images: int
    recording_bytes: int
    """Updates of a batch while they are recorded and put into the buffer."""
    prompt_bytes: int
    training_bytes: int
    """Memory of training itself, on the device."""
    device_bytes: int | None
    """Largest memory on the GPU so far; None without one."""
    disk_bytes: int
    """Held-out images, finished SAEs, and two checkpoints."""
    store: Estimate
    """Of collecting the store first."""
    gpus: int

    @property
    def seconds(self) -> float:
        """Of the whole run from generation."""
        images = ceil(self.images / self.gpus)
        training = self.seconds_per_round * self.rounds / self.images * self.gpus
        # The first buffer is filled before training, the last is trained on with nothing to be made.
        alone = min(images, self.buffer_images)
        more = alone * max(0.0, self.seconds_per_image_alone + training - self.seconds_per_image)
        return images * self.seconds_per_image + more + self.beside * self.seconds_per_image_alone

    @property
    def seconds_by_store(self) -> tuple[float, float]:
        """Of collecting a store, and of training from it."""
        return self.store.seconds(self.gpus), self.rounds * self.seconds_per_round

    def lines(self) -> list[str]:
        """The plan in words."""
        collecting, training = self.seconds_by_store
        device = "" if self.device_bytes is None else f", {size_text(self.device_bytes)} of the GPU so far"
        rows = BUFFERS * self.buffer_bytes + self.recording_bytes + self.prompt_bytes
        return [
            f"from generation: {self.images:,} images to train on, {self.beside:,} besides, "
            f"{self.seconds_per_image:.3g} s each with training beside it: {time_text(self.seconds)} on "
            f"{self.gpus} such device{'s' * (self.gpus > 1)}; {size_text(self.disk_bytes)} on disk",
            f"memory of each process: {size_text(rows)} for rows ({BUFFERS} buffers of "
            f"{size_text(self.buffer_bytes)}, in each the rows of {self.buffer_images:,} images; "
            f"{size_text(self.recording_bytes)} for a batch of images in the making; "
            f"{size_text(self.prompt_bytes)} of prompts), {size_text(self.training_bytes)} for "
            f"training{device}",
            f"a store first: {time_text(collecting + training)} on as many, {time_text(collecting)} to "
            f"collect and {time_text(training)} to train, reading beside it; "
            f"{size_text(self.store.bytes_in_all)} of store on disk",
        ]


def estimate_online(
    model: Model,
    prompts: Iterable[str | Prompt],
    plan: Plan,
    images: OnlineImages | None = None,
    *,
    gpus: int = 1,
    held_out: float | None = None,
    beside: Path | None = None,
    device: str | torch.device | None = None,
) -> OnlineEstimate:
    """Generate and train for a few buffers' time, and reckon the whole for so many GPUs.

    Prompts are taken again from the first where there are too few. `beside`: see `unbox.capture.estimate`.
    Raises UnboxError where the prompts have no end: how many images there are is what is reckoned with.
    """
    images = images or OnlineImages()
    blocks = tuple(dict.fromkeys(spec.block for spec in plan.saes))
    settings = images.settings(blocks)
    total = length(prompts, images.limit)
    if total is None:
        raise UnboxError("say how many prompts there are to be with --limit: these have no length")
    first = list(islice(prompts, min(total, 1024)))
    schema = schema_of(model, settings)
    per_image = {block: prod(schema.shape(block, 1)[1:-1]) for block in blocks}
    kept = held_out_images(model, settings, total, HELD_OUT if held_out is None else held_out)
    tokens = {block: plan.tokens or (total - kept) * rows for block, rows in per_image.items()}
    share = replace(plan, batch_size=max(1, plan.batch_size // gpus))
    trial = _Trial(model, first, share, images, per_image, device)
    place: dict[str, Any] = {**vars(settings), "beside": beside, "limit": total}
    collecting = estimate(model, islice(cycle(first), total), **place)
    least, most = min(per_image.values()), total - kept
    besides = kept + sum(min(most, ceil(2 * n / least)) for n in (SAMPLE, STATS_ROWS))
    widths = {block: schema.blocks[block][2] for block in blocks}
    weights = sum(spec.latents * widths[spec.block] for spec in plan.saes)
    return OnlineEstimate(
        images=max(ceil(tokens[block] / per_image[block]) for block in blocks),
        beside=besides,
        seconds_per_image=trial.seconds_per_image,
        seconds_per_image_alone=collecting.seconds_per_image,
        seconds_per_round=trial.seconds_per_round,
        rounds=max(ceil(number / plan.batch_size) for number in tokens.values()),
        buffer_bytes=images.buffer_bytes,
        buffer_images=images.buffer_bytes // schema.sample_bytes,
        recording_bytes=2 * settings.batch_size * recorded_bytes(schema),
        prompt_bytes=round(total * np.mean([_bytes(prompt) + 8 for prompt in first])),
        training_bytes=share.memory(widths),
        device_bytes=torch.cuda.max_memory_reserved(model.device) if model.device.type == "cuda" else None,
        disk_bytes=kept * schema.sample_bytes + weights * (SAE_BYTES + 2 * CHECKPOINT_BYTES),
        store=collecting,
        gpus=gpus,
    )


class _Trial:
    """A run in small: buffers of a few batches of images, of which some are timed."""

    def __init__(
        self,
        model: Model,
        prompts: list[str | Prompt],
        plan: Plan,
        images: OnlineImages,
        per_image: Mapping[str, int],
        device: str | torch.device | None,
    ) -> None:
        size = images.image_batch
        in_buffer = size * max(1, ceil(plan.batch_size / min(per_image.values()) / size))
        some_prompts = list(islice(cycle(prompts), in_buffer * (TIMED + 2)))
        schema = schema_of(model, images.settings(tuple(per_image)))
        size = in_buffer * schema.sample_bytes
        rows = streams(model, some_prompts, images, tuple(per_image), 0, size)
        some = {block: ArrayRows(stream.sample(plan.batch_size), block) for block, stream in rows.items()}
        starts = {b: measure(r, plan.seed, plan.centre, plan.init, plan.scaled) for b, r in some.items()}
        short = replace(plan, tokens=None, log_every=None, checkpoint_every=None, warmup=0, decay=0)
        with closing(TrainingRun(short, rows, device, starts)) as run:
            block = max(per_image, key=per_image.__getitem__)
            buffered = in_buffer * per_image[block]
            per_row = _seconds_per_row(run, block, buffered, (1 + TIMED) * buffered)
            self.seconds_per_image = per_row * per_image[block]
        alone = replace(short, tokens=plan.batch_size * 2 * STEPS)
        with closing(TrainingRun(alone, some, device, starts)) as run:
            ends = plan.batch_size * STEPS, plan.batch_size * 2 * STEPS
            self.seconds_per_round = _seconds_per_row(run, block, *ends) * plan.batch_size


def _seconds_per_row(run: TrainingRun, block: str, begin: int, end: int) -> float:
    """Seconds of training for a row of a block, between so many rows and so many."""
    lane, marks = run.lanes[block], []
    for wanted in (begin, end):
        while lane.left and lane.done < wanted:
            run.advance()
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)
        marks.append((time.perf_counter(), lane.done))
    (start, before), (stop, after) = marks
    return (stop - start) / max(1, after - before)


def _bytes(prompt: str | Prompt) -> int:
    return len((prompt if isinstance(prompt, str) else prompt.text).encode())
