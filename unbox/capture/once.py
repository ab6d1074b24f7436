"""What runs once in a call of a pipeline, text encoders and the VAE: of which images and branches it is."""

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from unbox.errors import UnboxError
from unbox.models.clock import Clock, Moment
from unbox.models.model import Model
from unbox.site import Site

#: The texts that `encode_prompt` gives each text encoder: the prompts, and under guidance the negative ones.
_TEXTS = (("cond",), ("uncond",))
TILED = (
    "the VAE works in tiles, not images, so that its blocks have no map of an image: take smaller images, or "
    "call pipeline.vae.disable_tiling() where it was turned on"
)


@dataclass
class _Encoding:
    """A call of a pipeline's `encode_prompt` that is under way."""

    base: bool
    """Of the base pipeline, not of a refiner with the same encoder."""
    images: int
    """Of each prompt."""
    calls: Counter[str] = field(default_factory=Counter)
    """Text encoder -> how often it was called."""
    moments: dict[str, Moment] = field(default_factory=dict)
    """Text encoder -> the images and branch of its call that is under way."""


class OnceRuns:
    """Knows the images and the branch of what a text encoder or the VAE computes.

    Prompts and negative prompts are told apart inside the pipeline's own `encode_prompt`, which gives each
    encoder the first and then the second. A VAE that takes its images in parts (slicing, one generator for
    each) takes them in order.
    """

    def __init__(self, model: Model, now: Clock) -> None:
        self._model, self._now = model, now
        self._encoding: _Encoding | None = None
        self._coded: Counter[str] = Counter()
        """Side of the VAE -> images that it has coded since the UNet ran."""
        self._running: dict[str, Moment] = {}
        """Side of the VAE -> the images it has at the moment."""

    @contextmanager
    def watching(self, components: Collection[str]) -> Iterator["OnceRuns"]:
        """Watch what runs these networks, until the context ends."""
        with ExitStack() as stack:
            if set(components) & {"text_encoder", "text_encoder_2"}:
                for number, pipeline in enumerate(self._model.pipelines):
                    stack.enter_context(self._encodings(pipeline, number == 0))
                for name in ("text_encoder", "text_encoder_2"):
                    if (encoder := getattr(self._model.pipeline, name, None)) is not None:
                        begun = partial(self._begin_text, name)
                        stack.callback(encoder.register_forward_pre_hook(begun).remove)
            if "vae" in components:
                self._watch_vae(stack)
            yield self

    def moment(self, site: Site, rows: int) -> Moment | None:
        """The images and branches of rows that a site has at the moment; None: not of this pipeline.

        Raises UnboxError where they cannot be known.
        """
        if site.component == "vae":
            return self._running[site.name.split(".")[1]]
        if self._encoding is None:
            raise UnboxError(
                f"{site.component} was called outside of pipeline.encode_prompt, so that nobody can say of "
                "which images and branch it is"
            )
        if not self._encoding.base:
            return None
        if site.component not in self._encoding.moments:
            self._encoding.moments[site.component] = self._of_texts(site.component, rows, self._encoding)
        return self._encoding.moments[site.component]

    def _of_texts(self, encoder: str, rows: int, encoding: _Encoding) -> Moment:
        count = rows * encoding.images
        samples = np.arange(count) if self._now.batch is None else self._now.batch
        if len(samples) != count:
            raise UnboxError(f"{rows} texts were encoded for {len(samples)} images of the run")
        return Moment(0, 0.0, _TEXTS[encoding.calls[encoder] - 1] * count, samples)

    @contextmanager
    def _encodings(self, pipeline: DiffusionPipeline, base: bool) -> Iterator[None]:
        original: Callable[..., Any] = pipeline.encode_prompt
        signature = inspect.signature(original)

        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            images = signature.bind(*args, **kwargs).arguments.get("num_images_per_prompt", 1)
            self._encoding = _Encoding(base, images)
            try:
                return original(*args, **kwargs)
            finally:
                self._encoding = None

        before = vars(pipeline).get("encode_prompt")  # of a recording around this one
        pipeline.encode_prompt = encode_prompt
        try:
            yield
        finally:
            if before is None:
                del pipeline.encode_prompt
            else:
                pipeline.encode_prompt = before

    def _begin_text(self, name: str, encoder: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if self._encoding is not None:
            self._encoding.calls[name] += 1
            self._encoding.moments.pop(name, None)

    def _watch_vae(self, stack: ExitStack) -> None:
        vae = self._model.pipelines[-1].vae
        if getattr(vae, "use_tiling", False):
            raise UnboxError(TILED)
        for side in ("encoder", "decoder"):
            begun = partial(self._begin_coding, side)
            stack.callback(getattr(vae, side).register_forward_pre_hook(begun).remove)
        for pipeline in self._model.pipelines:
            stack.callback(pipeline.unet.register_forward_pre_hook(self._end_coding).remove)

    def _begin_coding(self, side: str, coder: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if getattr(self._model.pipelines[-1].vae, "use_tiling", False):
            raise UnboxError(TILED)
        begin, count = self._coded[side], len(args[0])
        images = self._now.images if side == "decoder" else self._now.batch  # the UNet has not run yet
        samples = np.arange(begin, begin + count) if images is None else images[begin : begin + count]
        if len(samples) != count:
            known = 0 if images is None else len(images)
            raise UnboxError(
                f"the VAE's {side} was given {begin + count} images, and the run has {known}: it cannot be "
                "known which they are"
            )
        self._coded[side] += count
        self._running[side] = Moment(0, 0.0, ("cond",) * count, samples)

    def _end_coding(self, unet: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self._coded.clear()
