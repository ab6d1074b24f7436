"""Sampling images with a model: one generator per image, hooks on for the length of the call."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Protocol

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from tqdm.auto import tqdm

from unbox.keyword_options import keyword_options
from unbox.models.calls import RENAMED, Call, ImageCall, Prompts, Sampling, image_calls
from unbox.models.checks import check_pictures, check_sampling
from unbox.models.clock import clock
from unbox.models.conditioning import Micro, MicroHook
from unbox.models.hooks import Attachable, Hook, Hookable, ImageHook, as_hook
from unbox.models.image_memory import require_pictures, require_run
from unbox.models.lora_strengths import LoraStrengthsHook
from unbox.models.negative_prompts import negative_prompts
from unbox.models.offload_lookup import looked_up_once
from unbox.models.picture_pipelines import (
    check_arguments,
    check_inputs,
    picture_pipeline,
    pictures_of,
    takes,
    with_guides,
)
from unbox.models.prompt_length import unlogged, warn_of_cut
from unbox.models.run_lock import exclusive
from unbox.models.schedulers import V3_SIGMA_MAX, NativeEulerScheduler, sigma_max_for
from unbox.models.seeds import generator
from unbox.models.start_images import prepared
from unbox.models.systems import System


class Sampled(Hookable, Protocol):
    """What sampling needs of a model."""

    pipeline: DiffusionPipeline
    refiner: DiffusionPipeline | None
    controlnet: torch.nn.Module | None
    system: System

    @property
    def size(self) -> int:
        """Side of the native square image in pixels."""
        ...


@keyword_options(Call, RENAMED)
def generate(model: Sampled, prompts: Prompts, call: Call) -> list[Any]:
    """Images, one per prompt, seed, edit, negative prompt, micro-conditioning or starting image.

    The options are the fields of `unbox.models.calls.Call`. Single values are repeated to the length of the
    lists; lists must agree. Each image has its own generator, so `batch_size` changes nothing but rounding. A
    PIL image's `info` holds its prompt and seed. Prompts that are longer than the text encoders read are cut
    off by them, which one warning says. One thread samples with a model at a time; others wait.
    Raises UnboxError for lists that disagree and settings that cannot give an image.
    """
    unit = max(8, model.pipeline.vae_scale_factor)
    images = image_calls(prompts, call)
    check_pictures(model.pipeline, call.control is not None)
    check_inputs(model, images, call)
    if call.image is not None:
        if call.height and call.width:
            require_pictures(min(len(images), call.batch_size), call.height, call.width)
        starts = [image.image for image in images if image.image is not None]
        scale = model.pipeline.vae_scale_factor
        starts, height, width = prepared(starts, call.height, call.width, unit, scale)
        images = [replace(each, image=start) for each, start in zip(images, starts, strict=True)]
        call = replace(call, height=height, width=width)
    sampling = Sampling.of(call, model.system, model.size, unit)
    images = with_guides(images, sampling.height, sampling.width)
    with looked_up_once(model.pipeline):
        require_run(model, sampling, len(images))
    lengths = [_length(model, image, sampling) for image in images]
    with exclusive(model, "generate", call.wait):
        check_sampling(sampling, model.pipeline.scheduler)
        if not call.reading.chunks:
            texts = (text for each in images for text in (each.prompt, each.negative or ""))
            warn_of_cut(model, map(call.reading.text, texts))
        return _generate(model, images, lengths, sampling)


def _length(model: Sampled, image: ImageCall, sampling: Sampling) -> int:
    """Chunks of an image's prompts, by which its embeddings are long: those of a batch are of one length."""
    texts = [image.prompt, image.negative if sampling.guidance > 1 else None]
    return max(sampling.call.reading.length(model.pipeline, text) for text in texts)


def _generate(
    model: Sampled, images: Sequence[ImageCall], lengths: Sequence[int], sampling: Sampling
) -> list[Any]:
    """The images in batches, with the clock and the hooks on."""
    pictures = {name: getattr(images[0], name) is not None for name in ("image", "mask", "control")}
    pipeline = picture_pipeline(model, **pictures)
    call, results = sampling.call, list[Any]()
    with ExitStack() as stack:
        scheduler = model.pipeline.scheduler
        if isinstance(scheduler, NativeEulerScheduler) and not sampling.system.image_to_image:
            sigma = sigma_max_for(sampling.height, sampling.width, V3_SIGMA_MAX, model.size)
            stack.enter_context(scheduler.with_sigma_max(sigma))
        now = stack.enter_context(clock(model))
        for hook, rows in _hooks(images, sampling):
            stack.enter_context(hook.attach(model, rows))
        bar = tqdm(total=len(images), disable=not call.progress, desc="images", unit="image")
        stack.enter_context(bar)
        for places in _batches(lengths, call.batch_size):
            batch = [images[place] for place in places]
            with now.rows(samples=places):
                made = _sample(model, pipeline, batch, sampling)
                if call.output == "latent":
                    now.finite.check("the latents after the last step", torch.stack(made), places)
            if call.output == "pil":
                for picture, image in zip(made, batch, strict=True):
                    picture.info |= {"prompt": image.prompt, "seed": image.seed}
            results.extend(made)
            bar.update(len(batch))
    return results


def _batches(lengths: Sequence[int], size: int) -> Iterator[range]:
    """Places of at most `size` images after one another whose prompts have one length."""
    start = 0
    for place in range(1, len(lengths) + 1):
        if place == len(lengths) or place - start == size or lengths[place] != lengths[start]:
            yield range(start, place)
            start = place


def _hooks(images: Sequence[ImageCall], sampling: Sampling) -> Iterator[tuple[Hook, list[int] | None]]:
    """Hooks and the images each applies to (None: all), edits grouped by identity."""
    micros = [image.micro for image in images]
    if any(micro != Micro() for micro in micros):
        yield MicroHook(micros, sampling.height, sampling.width), None
    groups: dict[int, tuple[Attachable, list[int]]] = {}
    for index, image in enumerate(images):
        if image.edit is not None:
            groups.setdefault(id(image.edit), (image.edit, []))[1].append(index)
    of_images: dict[type[ImageHook], list[tuple[ImageHook, list[int] | None]]] = {}
    for edit, rows in groups.values():
        of_edit, some = as_hook(edit), None if len(rows) == len(images) else rows
        if isinstance(of_edit, ImageHook):
            of_images.setdefault(type(of_edit), []).append((of_edit, some))
        else:
            yield of_edit, some
    for kind, hooks in of_images.items():
        yield kind.together(hooks), None
    if any(image.lora_strengths for image in images):
        yield LoraStrengthsHook([image.lora_strengths or {} for image in images]), None
    for hook in sampling.call.hooks:
        yield as_hook(hook), None


def _texts(pipeline: DiffusionPipeline, batch: Sequence[ImageCall], sampling: Sampling) -> dict[str, Any]:
    """The pipeline's arguments of the prompts: texts, or embeddings where it does not read them so itself."""
    call, prompts = sampling.call, [image.prompt for image in batch]
    negatives = [image.negative for image in batch]
    every = [*prompts, *(negatives if sampling.guidance > 1 else ())]
    if not all(call.reading.plain(pipeline, text) for text in every):
        return call.reading.arguments(pipeline, prompts, negatives, sampling.guidance > 1)
    return {"prompt": prompts}


def _sample(
    model: Sampled, pipeline: DiffusionPipeline, batch: Sequence[ImageCall], sampling: Sampling
) -> list[Any]:
    """One call of the pipeline (of both, in an ensemble); a list of images, arrays or latents."""
    generators = [generator(image.seed) for image in batch]
    system, call = sampling.system, sampling.call
    given: dict[str, Any] = {
        **_texts(pipeline, batch, sampling),
        "num_inference_steps": sampling.steps,
        "guidance_scale": sampling.guidance,
        "guidance_rescale": call.guidance_rescale,
        "generator": generators,
        "output_type": call.output,
    }
    negatives = _negatives(given, batch)
    if system.eta is not None:
        given["eta"] = system.eta
    if timesteps := system.grid(sampling.steps):
        given["timesteps"] = list(timesteps)
    size = {"height": sampling.height, "width": sampling.width}
    if pictures := pictures_of(batch, sampling):
        check_arguments(pipeline, given)
        given = {name: each for name, each in (given | size).items() if takes(pipeline, name)}
        return list(_call(pipeline, given | pictures, negatives, model.pipeline))
    if isinstance(model.pipeline.scheduler, NativeEulerScheduler):
        given["latents"] = _native_noise(model, generators, sampling)
    if model.refiner is None:
        return list(_call(model.pipeline, given | size, negatives))
    ending = {"denoising_end": system.split, "output_type": "latent"}
    latents = _call(model.pipeline, given | size | ending, negatives)
    given = {name: each for name, each in given.items() if "prompt" not in name}
    given |= _texts(model.refiner, batch, sampling)
    beginning = {"image": latents, "denoising_start": system.split}
    return list(_call(model.refiner, given | beginning, _negatives(given, batch)))


def _negatives(given: dict[str, Any], batch: Sequence[ImageCall]) -> list[str | None]:
    """Negative prompts that the pipeline is to encode: embeddings have them in them."""
    return [image.negative if "prompt" in given else None for image in batch]


def _call(
    run: DiffusionPipeline,
    arguments: dict[str, Any],
    negatives: Sequence[str | None],
    base: DiffusionPipeline | None = None,
) -> Any:
    """The images of a pipeline, without its progress bar and warnings about a system's fixed timesteps.

    `negatives`: the negative prompt of each image. `base`: the pipeline that shows its bar and encodes its
    prompts, if not its own.
    """
    pipeline = base or run
    config = getattr(pipeline, "_progress_bar_config", {})
    pipeline.set_progress_bar_config(**{**config, "disable": True})
    logger = logging.getLogger("diffusers.schedulers.scheduling_lcm")
    level = logger.level
    if "timesteps" in arguments:
        logger.setLevel(logging.ERROR)
    try:
        with unlogged(pipeline), negative_prompts(pipeline, negatives) as given:
            return run(**arguments, **given).images
    finally:
        logger.setLevel(level)
        pipeline.set_progress_bar_config(**config)


def _native_noise(model: Sampled, generators: Sequence[torch.Generator], sampling: Sampling) -> torch.Tensor:
    """Unit noise in float32: its product with sigma_max overflows float16."""
    scale = model.pipeline.vae_scale_factor
    shape = (1, model.pipeline.unet.config.in_channels, sampling.height // scale, sampling.width // scale)
    noise = [torch.randn(shape, generator=each) for each in generators]
    return torch.cat(noise).to(model.device)
