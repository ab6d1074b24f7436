"""Making a batch of images and their updates; one bad image does not spoil the others."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch

from activation_store import Sample, Schema
from unbox.capture.activations import activations_of
from unbox.capture.buffers import Buffers, buffered
from unbox.capture.collect_settings import CollectSettings, OnBad
from unbox.capture.keeper import MadeImages
from unbox.errors import UnboxError
from unbox.memory_limit import size_text
from unbox.models.clock import clock
from unbox.models.finite import NotFiniteError
from unbox.models.float32 import float32_bytes, in_float32
from unbox.models.model import Model

#: An image with its updates, and its place among those of its batch; or why there is none.
_Made = tuple[Any, Buffers, int] | str


class ImageBatches:
    """Makes the batches of one run, and counts the images that were made again."""

    def __init__(self, model: Model, settings: CollectSettings, schema: Schema, on_bad: OnBad) -> None:
        self.model, self.settings, self.schema, self.on_bad = model, settings, schema, on_bad
        self.in_float32: list[int] = []
        """Images that are good in float32 alone."""
        self._told = False

    def make(self, batch: Sequence[Sample]) -> list[MadeImages]:
        """Images of a batch and their updates, in its order; those that cannot be made are absent, as are
        those that were absent before.

        Raises UnboxError, naming the image of the run, where `on_bad` is to stop.
        """
        made: dict[int, _Made] = {s.index: s.absent for s in batch if s.absent is not None}
        wanted = [sample for sample in batch if sample.absent is None]
        made |= self._make(wanted)
        for sample in wanted:
            if self.on_bad == "float32" and isinstance(reason := made[sample.index], str):
                made[sample.index] = self._again(sample, reason)
        return list(_parts(batch, made))

    def _make(self, batch: Sequence[Sample]) -> dict[int, _Made]:
        """By the image's number. A batch with bad images is made again without them."""
        made: dict[int, _Made] = {}
        left = list(batch)
        while left:
            try:
                pictures, buffers = generate_batch(self.model, self.settings, self.schema, left)
            except NotFiniteError as error:
                if self.on_bad == "stop":
                    raise _stopped(error, left) from error
                if error.images is None and len(left) > 1:
                    return made | {n: one for each in left for n, one in self._make([each]).items()}
                bad = error.images or (0,)
                made |= {left[place].index: error.reason for place in bad}
                left = [sample for place, sample in enumerate(left) if place not in bad]
            else:
                places = range(len(left))
                made |= {left[at].index: (pictures[at] if pictures else None, buffers, at) for at in places}
                break
        return made

    def _again(self, sample: Sample, reason: str) -> _Made:
        if not self._told:
            now, wide = map(size_text, float32_bytes(self.model))
            what = (
                f"images that fail are made again alone, with {wide} of weights in float32 instead of {now}"
            )
            warnings.warn(what, stacklevel=2)
            self._told = True
        with in_float32(self.model):
            made = self._make([sample])[sample.index]
        if isinstance(made, str):
            return f"{reason}; in float32 too"
        self.in_float32.append(sample.index)
        return made


def generate_batch(
    model: Model, settings: CollectSettings, schema: Schema, batch: Sequence[Sample]
) -> tuple[list[Any], Buffers]:
    """Images of a batch and what is recorded; no images where only text encoders are."""
    seeds, prompts = [sample.seed for sample in batch], [sample.prompt for sample in batch]
    activations = activations_of(model, settings.blocks, settings.what, settings.layers)
    with buffered(model, activations, schema, seeds) as buffers:
        if settings.of_texts:
            encode(model, prompts)
            return [], buffers
        images = model.generate(prompts, seeds=seeds, **settings.call())
    return images, buffers


@torch.no_grad()
def encode(model: Model, prompts: Sequence[str]) -> None:
    """Run the text encoders on prompts as the pipeline does; whoever watches them has the result."""
    with clock(model, "encoding prompts"):
        model.pipeline.encode_prompt(
            prompt=list(prompts),
            device=model.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )


def _stopped(error: NotFiniteError, batch: Sequence[Sample]) -> UnboxError:
    numbers = ", ".join(str(batch[place].index) for place in error.images or range(len(batch)))
    return UnboxError(
        f"image {numbers} of the run: {error.reason}; the images before are kept. on_bad='skip' "
        "(--on-bad skip) leaves such images out, 'float32' makes them again in float32"
    )


def _parts(batch: Sequence[Sample], made: Mapping[int, _Made]) -> Iterator[MadeImages]:
    """Runs of images that lie together."""

    def together(sample: Sample) -> int:
        one = made[sample.index]
        return 0 if isinstance(one, str) else id(one[1])

    for _, group in groupby(batch, key=together):
        some = list(group)
        ones = [made[sample.index] for sample in some]
        first = ones[0]
        if isinstance(first, str):
            yield MadeImages([replace(s, absent=str(made[s.index])) for s in some])
        else:
            pictures = [one[0] for one in ones if not isinstance(one, str)]
            yield MadeImages(some, pictures, first[1], first[2])
