"""Sampling images with a model: one generator per image, hooks on for the length of the call."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Protocol

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from tqdm.auto import tqdm

from unbox.errors import UnboxError
from unbox.keyword_options import keyword_options
from unbox.models.calls import RENAMED, Call, ImageCall, Prompts, Sampling, image_calls
from unbox.models.checks import check_pictures, check_sampling
from unbox.models.clock import clock
from unbox.models.conditioning import Micro, MicroHook
from unbox.models.hooks import Attachable, Hook, Hookable, ImageHook, as_hook
from unbox.models.image_memory import require_pictures, require_run
from unbox.models.negative_prompts import negative_prompts
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
    _check_images(model.system, images)
    check_pictures(model.pipeline)
    if model.system.image_to_image:
        if call.height and call.width:
            require_pictures(min(len(images), call.batch_size), call.height, call.width)
        starts = [image.image for image in images if image.image is not None]
        scale = model.pipeline.vae_scale_factor
        starts, height, width = prepared(starts, call.height, call.width, unit, scale)
        images = [replace(each, image=start) for each, start in zip(images, starts, strict=True)]
        call = replace(call, height=height, width=width)
    sampling = Sampling.of(call, model.system, model.size, unit)
    require_run(model, sampling, len(images))
    with exclusive(model, "generate", call.wait):
        check_sampling(sampling, model.pipeline.scheduler)
        warn_of_cut(model, (text for each in images for text in (each.prompt, each.negative or "")))
        return _generate(model, images, sampling)


def _generate(model: Sampled, images: Sequence[ImageCall], sampling: Sampling) -> list[Any]:
    """The images in batches, with the clock and the hooks on."""
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
        for start in range(0, len(images), call.batch_size):
            batch = images[start : start + call.batch_size]
            with now.rows(samples=range(start, start + len(batch))):
                made = _sample(model, batch, sampling)
                if call.output == "latent":
                    images_of = range(start, start + len(batch))
                    now.finite.check("the latents after the last step", torch.stack(made), images_of)
            if call.output == "pil":
                for picture, image in zip(made, batch, strict=True):
                    picture.info |= {"prompt": image.prompt, "seed": image.seed}
            results.extend(made)
            bar.update(len(batch))
    return results


def _check_images(system: System, images: Sequence[ImageCall]) -> None:
    wanted, given = system.image_to_image, [image.image is not None for image in images]
    if wanted and not all(given):
        raise UnboxError(f"{system.name} refines images: give image= (--image), one, or one per prompt")
    if any(given) and not wanted:
        raise UnboxError(f"{system.name} starts from noise and takes no image=; sdxl-refiner does")


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
    for hook in sampling.call.hooks:
        yield as_hook(hook), None


def _sample(model: Sampled, batch: Sequence[ImageCall], sampling: Sampling) -> list[Any]:
    """One call of the pipeline (of both, in an ensemble); a list of images, arrays or latents."""
    generators = [generator(image.seed) for image in batch]
    system, call = sampling.system, sampling.call
    given: dict[str, Any] = {
        "prompt": [image.prompt for image in batch],
        "num_inference_steps": sampling.steps,
        "guidance_scale": sampling.guidance,
        "guidance_rescale": call.guidance_rescale,
        "generator": generators,
        "output_type": call.output,
    }
    negatives = [image.negative for image in batch]
    if system.eta is not None:
        given["eta"] = system.eta
    if timesteps := system.grid(sampling.steps):
        given["timesteps"] = list(timesteps)
    size = {"height": sampling.height, "width": sampling.width}
    if system.image_to_image:
        given |= {"image": [image.image for image in batch], "strength": call.strength}
        return list(_call(model.pipeline, given, negatives))
    if isinstance(model.pipeline.scheduler, NativeEulerScheduler):
        given["latents"] = _native_noise(model, generators, sampling)
    if model.refiner is None:
        return list(_call(model.pipeline, given | size, negatives))
    ending = {"denoising_end": system.split, "output_type": "latent"}
    latents = _call(model.pipeline, given | size | ending, negatives)
    beginning = {"image": latents, "denoising_start": system.split}
    return list(_call(model.refiner, given | beginning, negatives))


def _call(pipeline: DiffusionPipeline, arguments: dict[str, Any], negatives: Sequence[str | None]) -> Any:
    """The pipeline's images, without its progress bar and warnings about a system's fixed timesteps.

    `negatives`: the negative prompt of each image."""
    config = getattr(pipeline, "_progress_bar_config", {})
    pipeline.set_progress_bar_config(**{**config, "disable": True})
    logger = logging.getLogger("diffusers.schedulers.scheduling_lcm")
    level = logger.level
    if "timesteps" in arguments:
        logger.setLevel(logging.ERROR)
    try:
        with unlogged(pipeline), negative_prompts(pipeline, negatives) as given:
            return pipeline(**arguments, **given).images
    finally:
        logger.setLevel(level)
        pipeline.set_progress_bar_config(**config)


def _native_noise(model: Sampled, generators: Sequence[torch.Generator], sampling: Sampling) -> torch.Tensor:
    """Unit noise in float32: its product with sigma_max overflows float16."""
    scale = model.pipeline.vae_scale_factor
    shape = (1, model.pipeline.unet.config.in_channels, sampling.height // scale, sampling.width // scale)
    noise = [torch.randn(shape, generator=each) for each in generators]
    return torch.cat(noise).to(model.device)
