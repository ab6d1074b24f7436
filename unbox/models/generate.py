"""Sampling images with a model: one generator per image, instruments on for the length of the call."""

import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from unbox.errors import UnboxError
from unbox.models.checks import check_run
from unbox.models.clock import clock
from unbox.models.conditioning import Micro, MicroInstrument
from unbox.models.hooks import Instrument, as_instrument
from unbox.models.schedulers import V3_SIGMA_MAX, NativeEulerScheduler, sigma_max_for
from unbox.models.seeds import generator
from unbox.prompt import Prompt

if TYPE_CHECKING:
    from unbox.models.model import Model

OUTPUTS = ("pil", "latent", "np")


@dataclass(frozen=True)
class Settings:
    """What holds for every image of one call."""

    steps: int
    guidance: float
    height: int
    width: int
    timesteps: tuple[int, ...] | None
    rescale: float
    output: str
    strength: float
    negative: bool


@dataclass(frozen=True)
class Job:
    """What differs between the images of one call."""

    prompt: str
    seed: int
    negative: str | None
    micro: Micro
    edit: Any
    image: Any


def generate(
    model: "Model",
    prompts: str | Prompt | Sequence[str | Prompt],
    *,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    guidance_rescale: float = 0.0,
    height: int | None = None,
    width: int | None = None,
    negative_prompt: str | Sequence[str] | None = None,
    micro: Micro | Sequence[Micro] | None = None,
    image: Any = None,
    strength: float = 0.3,
    edits: Any = None,
    instruments: Sequence[Any] = (),
    batch_size: int = 8,
    progress: bool = False,
    output: str = "pil",
) -> list[Any]:
    """Images, one per prompt, seed, edit, negative prompt, micro-conditioning or starting image.

    Single values are repeated to the length of the lists; lists must agree. Each image has its own generator,
    so `batch_size` changes nothing but rounding. Without `seed` (one for every image) or `seeds`, seeds are
    drawn; a PIL image's `info` holds its prompt and seed. Steps, guidance and size (`height`, `width` in
    pixels) come from the system where not given.
    `guidance_rescale` is phi of arXiv 2305.08891. `image` and `strength` are for image-to-image systems.
    `edits`: an edit, None, or one for each image; `instruments` attach to all images. `output`: "pil" images,
    "np" arrays (height, width, 3) in 0..1, or "latent" tensors (4, height/8, width/8).
    Raises UnboxError for lists that disagree and settings that cannot give an image.
    """
    if seed is not None and seeds is not None:
        raise UnboxError("give seed= (for every image) or seeds= (one each), not both")
    if batch_size < 1:
        raise UnboxError(f"batches of {batch_size} images hold none; at least one is needed")
    if output not in OUTPUTS:
        raise UnboxError(f"output '{output}' is not one of {', '.join(OUTPUTS)}")
    settings = _settings(
        model, steps, guidance, height, width, guidance_rescale, output, strength, bool(negative_prompt)
    )
    jobs = _jobs(
        prompt=prompts,
        seed=seeds if seeds is not None else seed,
        negative=negative_prompt,
        micro=micro,
        edit=edits,
        image=image,
    )
    _check_images(model, jobs)
    check_run(model, settings)
    return _run(model, jobs, settings, instruments, batch_size, progress)


def _run(
    model: "Model",
    jobs: Sequence[Job],
    settings: Settings,
    instruments: Sequence[Any],
    batch_size: int,
    progress: bool,
) -> list[Any]:
    """The jobs in batches, with the clock and the instruments on."""
    with ExitStack() as stack:
        run = stack.enter_context(clock(model))
        for instrument, rows in _attachments(jobs, instruments, settings):
            stack.enter_context(instrument.attach(model, rows))
        bar = stack.enter_context(tqdm(total=len(jobs), disable=not progress, desc="images", unit="image"))
        results: list[Any] = []
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            with run.rows(samples=range(start, start + len(batch))):
                images = _sample(model, batch, settings)
            if settings.output == "pil":
                for made, job in zip(images, batch, strict=True):
                    made.info |= {"prompt": job.prompt, "seed": job.seed}
            results.extend(images)
            bar.update(len(batch))
    return results


def _settings(
    model: "Model",
    steps: int | None,
    guidance: float | None,
    height: int | None,
    width: int | None,
    rescale: float,
    output: str,
    strength: float,
    negative: bool,
) -> Settings:
    system = model.system
    steps = system.steps if steps is None else steps
    height, width = (model.size if side is None else side for side in (height, width))
    unit = max(8, model.pipeline.vae_scale_factor)
    if height % unit or width % unit or height < unit or width < unit:
        raise UnboxError(f"{height} x {width} pixels cannot be sampled; both must be multiples of {unit}")
    return Settings(
        steps=steps,
        guidance=system.guidance if guidance is None else guidance,
        height=height,
        width=width,
        timesteps=(system.timesteps or {}).get(steps),
        rescale=rescale,
        output=output,
        strength=strength,
        negative=negative,
    )


def _jobs(**values: Any) -> list[Job]:
    """One job per image: lists side by side, single values repeated."""
    lists = {name: list(value) for name, value in values.items() if _is_list(value)}
    if empty := [name for name, value in lists.items() if not value]:
        raise UnboxError(f"the list for {', '.join(empty)} is empty; there is nothing to sample")
    lengths = {name: len(value) for name, value in lists.items() if len(value) != 1}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{count} of {name}" for name, count in lengths.items())
        raise UnboxError(f"lists of different lengths: {told}; give one value, or one for each image")
    count = max([1, *lengths.values()])
    columns = {
        name: (lists[name] * count)[:count] if name in lists else [value] * count
        for name, value in values.items()
    }
    return [_job(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _job(prompt: str | Prompt, seed: int | None, micro: Micro | None, **rest: Any) -> Job:
    return Job(
        prompt=prompt.text if isinstance(prompt, Prompt) else prompt,
        seed=secrets.randbits(32) if seed is None else int(seed),
        micro=micro or Micro(),
        **rest,
    )


def _is_list(value: Any) -> bool:
    """Lists, tuples, ranges and arrays are one value per image; composed edits are one value."""
    return isinstance(value, list | range) or type(value) is tuple or hasattr(value, "tolist")


def _check_images(model: "Model", jobs: Sequence[Job]) -> None:
    wanted, given = model.system.image_to_image, [job.image is not None for job in jobs]
    if wanted and not all(given):
        raise UnboxError(f"{model.system.name} refines images: give image= (--image), one, or one per prompt")
    if any(given) and not wanted:
        raise UnboxError(f"{model.system.name} starts from noise and takes no image=; sdxl-refiner does")


def _attachments(
    jobs: Sequence[Job], instruments: Sequence[Any], settings: Settings
) -> Iterator[tuple[Instrument, list[int] | None]]:
    """Instruments and the images each applies to (None: all), edits grouped by identity."""
    micros = [job.micro for job in jobs]
    if any(micro != Micro() for micro in micros):
        yield MicroInstrument(micros, settings.height, settings.width), None
    groups: dict[int, tuple[Any, list[int]]] = {}
    for index, job in enumerate(jobs):
        if job.edit is not None:
            groups.setdefault(id(job.edit), (job.edit, []))[1].append(index)
    for edit, rows in groups.values():
        yield as_instrument(edit), None if len(rows) == len(jobs) else rows
    for instrument in instruments:
        yield as_instrument(instrument), None


def _sample(model: "Model", batch: Sequence[Job], settings: Settings) -> list[Any]:
    """One call of the pipeline (of both, in an ensemble); a list of images, arrays or latents."""
    generators = [generator(job.seed) for job in batch]
    call: dict[str, Any] = {
        "prompt": [job.prompt for job in batch],
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        "guidance_rescale": settings.rescale,
        "generator": generators,
        "output_type": settings.output,
    }
    if settings.negative:
        call["negative_prompt"] = [job.negative or "" for job in batch]
    if settings.timesteps:
        call["timesteps"] = list(settings.timesteps)
    size = {"height": settings.height, "width": settings.width}
    if model.system.image_to_image:
        call |= {"image": [job.image for job in batch], "strength": settings.strength}
        return list(_call(model.pipeline, call))
    if isinstance(model.pipeline.scheduler, NativeEulerScheduler):
        call["latents"] = _prepare_native(model, generators, settings)
    if model.refiner is None:
        return list(_call(model.pipeline, call | size))
    ending = {"denoising_end": model.system.split, "output_type": "latent"}
    latents = _call(model.pipeline, call | size | ending)
    return list(_call(model.refiner, call | {"image": latents, "denoising_start": model.system.split}))


def _call(pipeline: Any, arguments: dict[str, Any]) -> Any:
    """The pipeline's images, without its own progress bar and its doubts about a system's fixed timesteps."""
    config = getattr(pipeline, "_progress_bar_config", {})
    pipeline.set_progress_bar_config(**{**config, "disable": True})
    doubts = logging.getLogger("diffusers.schedulers.scheduling_lcm")
    level = doubts.level
    if "timesteps" in arguments:
        doubts.setLevel(logging.ERROR)
    try:
        return pipeline(**arguments).images
    finally:
        doubts.setLevel(level)
        pipeline.set_progress_bar_config(**config)


def _prepare_native(
    model: "Model", generators: Sequence[torch.Generator], settings: Settings
) -> torch.Tensor:
    """Unit noise in float32 (its product with sigma_max overflows float16), and sigma_max for the canvas."""
    scheduler = model.pipeline.scheduler
    scheduler.set_sigma_max(sigma_max_for(settings.height, settings.width, V3_SIGMA_MAX, model.size))
    scale = model.pipeline.vae_scale_factor
    shape = (1, model.pipeline.unet.config.in_channels, settings.height // scale, settings.width // scale)
    noise = [torch.randn(shape, generator=each) for each in generators]
    return torch.cat(noise).to(model.device)
