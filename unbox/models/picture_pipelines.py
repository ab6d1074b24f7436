"""Runs that start from pictures, on a model that starts from noise: image to image, inpainting, ControlNet.

diffusers has a pipeline for each. They are made of the model's own parts, and what is watched on the model's
pipeline (the denoising loop, the encoding of prompts) is watched on theirs.
"""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Protocol

import diffusers
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from unbox.errors import UnboxError
from unbox.models.calls import Call, ImageCall, Sampling
from unbox.models.conditioning import Micro
from unbox.models.schedulers import NativeEulerScheduler
from unbox.models.start_images import prepared_control, prepared_mask
from unbox.models.systems import System

#: Whether there are starting images, masks and control pictures -> the pipeline.
_KINDS = {
    (True, False, False): "StableDiffusionXLImg2ImgPipeline",
    (True, True, False): "StableDiffusionXLInpaintPipeline",
    (False, False, True): "StableDiffusionXLControlNetPipeline",
    (True, False, True): "StableDiffusionXLControlNetImg2ImgPipeline",
    (True, True, True): "StableDiffusionXLControlNetInpaintPipeline",
}


class Controlled(Protocol):
    """What is asked of a model."""

    pipeline: DiffusionPipeline
    refiner: DiffusionPipeline | None
    system: System
    controlnet: torch.nn.Module | None


def picture_pipeline(
    model: Controlled, image: bool = False, mask: bool = False, control: bool = False
) -> DiffusionPipeline:
    """The pipeline that starts from a picture, redraws it where a mask is white, or follows a control
    picture; the model's own where it does so itself, or none is given.

    Its calls are watched as the model's own are: inside `unbox.record`, and by edits.
    """
    base, kind = model.pipeline, _KINDS.get((image, mask, control))
    if kind is None or type(base).__name__ == kind:
        return base
    pipeline_class = getattr(diffusers, kind)
    takes = _parameters(pipeline_class.__init__)
    parts = {name: part for name, part in base.components.items() if name in takes}
    said = ("force_zeros_for_empty_prompt", "requires_aesthetics_score")
    options = {name: base.config[name] for name in said if name in base.config and name in takes}
    if control:
        parts["controlnet"] = model.controlnet
    pipeline = pipeline_class(**parts, **options, add_watermarker=False)
    _report_to(base, pipeline)
    return pipeline


def _report_to(base: DiffusionPipeline, pipeline: DiffusionPipeline) -> None:
    """Let what watches the base pipeline's loop and its encoding of prompts watch another one's."""

    def progress_bar(iterable: Any = None, total: int | None = None) -> Any:
        base._guidance_scale = pipeline.guidance_scale  # by which the branches of rows are told
        return base.progress_bar(iterable, total)

    pipeline.progress_bar = progress_bar
    pipeline.encode_prompt = lambda *args, **kwargs: base.encode_prompt(*args, **kwargs)
    pipeline.maybe_free_model_hooks = lambda: base.maybe_free_model_hooks()


@cache
def _parameters(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def takes(pipeline: DiffusionPipeline, argument: str) -> bool:
    """Whether a call of the pipeline has that argument."""
    return argument in _parameters(type(pipeline).__call__)


def check_inputs(model: Controlled, images: Sequence[ImageCall], call: Call) -> None:
    """Raises UnboxError for pictures that a run has no use for, or lacks."""
    system = model.system
    kinds = {
        name: [getattr(image, name) is not None for image in images] for name in ("image", "mask", "control")
    }
    if system.image_to_image and not all(kinds["image"]):
        raise UnboxError(f"{system.name} refines images: give image= (--image), one, or one per prompt")
    for name, given in kinds.items():
        if any(given) and not all(given):
            raise UnboxError(
                f"{name} is given for some images of the call: give one for all, or one for each"
            )
    image, mask, control = (all(given) for given in kinds.values())
    if mask and not image:
        raise UnboxError("mask= (--mask) says where image= (--image) is drawn anew; there is no image")
    if control and (system.image_to_image or model.refiner is not None):
        raise UnboxError(f"{system.name} has a refiner's UNet, for which there are no ControlNets")
    if control and model.controlnet is None:
        raise UnboxError(
            "control= (--control) needs a ControlNet: load_controlnet(model, 'FOLDER') of unbox.models "
            "(--controlnet FOLDER)"
        )
    if image and model.refiner is not None:
        raise UnboxError(
            f"{system.name} starts from noise, which base and refiner share; take sdxl-base, or sdxl-refiner"
        )
    if image and isinstance(model.pipeline.scheduler, NativeEulerScheduler):
        raise UnboxError(f"{system.name}'s schedule starts from noise alone; add another system= (--system)")
    if control and any(each.micro != Micro() for each in images):
        raise UnboxError("micro-conditioning does not reach a ControlNet, which is told the image's own size")


def with_guides(images: Sequence[ImageCall], height: int, width: int) -> list[ImageCall]:
    """The images with masks and control pictures of that size in pixels, each prepared once."""
    masks, controls = {}, {}
    for image in images:
        if image.mask is not None and id(image.mask) not in masks:
            masks[id(image.mask)] = prepared_mask(image.mask, height, width)
        if image.control is not None and id(image.control) not in controls:
            controls[id(image.control)] = prepared_control(image.control, height, width)
    return [
        replace(each, mask=masks.get(id(each.mask)), control=controls.get(id(each.control)))
        for each in images
    ]


def pictures_of(batch: Sequence[ImageCall], sampling: Sampling) -> dict[str, Any]:
    """The arguments of a pipeline that starts from a batch's pictures; none where there are no pictures."""
    given: dict[str, Any] = {}
    image, mask, control = ([getattr(each, name) for each in batch] for name in ("image", "mask", "control"))
    if control[0] is not None:
        place = "image" if image[0] is None else "control_image"
        given |= {place: control, "controlnet_conditioning_scale": sampling.call.control_strength}
    if image[0] is not None:
        given |= {"image": image, "strength": sampling.strength}
    return given if mask[0] is None else {**given, "mask_image": mask}


def check_arguments(pipeline: DiffusionPipeline, given: dict[str, Any]) -> None:
    """Raises UnboxError for what a run from pictures cannot be given."""
    said = {
        "timesteps": "a system with a fixed timestep grid",
        "guidance_rescale": "guidance_rescale (--guidance-rescale)",
    }
    for name, what in said.items():
        if given.get(name) and not takes(pipeline, name):
            raise UnboxError(
                f"diffusers' {type(pipeline).__name__}, which these pictures need, has no place for {what}"
            )
