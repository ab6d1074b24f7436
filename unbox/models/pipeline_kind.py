"""What a pipeline must be to be opened: SDXL's or its refiner's, with the parts that its UNet reads."""

from collections.abc import Mapping
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from unbox.errors import UnboxError
from unbox.json_types import JSON

#: Classes of diffusers' pipelines that are opened; others are made of their parts where pictures need them.
OPENED = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")


def check_index(index: Mapping[str, JSON], where: str) -> None:
    """Raises UnboxError, before any weights are fetched or read, where model_index.json is of another kind of
    pipeline: of another architecture, or one that needs more than a prompt and a picture."""
    kind = index.get("_class_name")
    if kind in OPENED:
        return
    more = ""
    if isinstance(kind, str) and kind.startswith("StableDiffusionXL"):
        more = "; img2img, inpainting and ControlNet start from any of these, by image=, mask= and control="
    raise UnboxError(
        f"{where} is a {kind}, by its model_index.json; what is opened is {' or '.join(OPENED)}{more}"
    )


def check_parts(pipeline: DiffusionPipeline, where: str) -> None:
    """Raises UnboxError for a UNet that reads more than latents, and for text encoders that are not those
    which it reads."""
    unet: Mapping[str, Any] = pipeline.unet.config
    check_channels(int(unet["in_channels"]), where, int(unet["out_channels"]))
    encoders = {name: getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2")}
    widths = {name: int(each.config.hidden_size) for name, each in encoders.items() if each is not None}
    reads = unet["cross_attention_dim"]
    if unet.get("encoder_hid_dim_type") is None and sum(widths.values()) != reads:
        given = ", ".join(f"{name} {width}" for name, width in widths.items()) or "there are none"
        raise UnboxError(
            f"{where} has not the text encoders that its UNet reads: {reads} channels, and the encoders give "
            f"{sum(widths.values())} ({given})"
        )


def check_channels(takes: int, where: str, gives: int = 4) -> None:
    """Raises UnboxError for a UNet that takes other channels than those of the latents."""
    if takes != gives:
        raise UnboxError(
            f"{where} has a UNet of {takes} input channels where latents have {gives}: one for inpainting "
            "(9) or for editing by instruction (8), which is not sampled here; mask= (--mask) inpaints with "
            "any other SDXL model"
        )


def check_scheduler(scheduler: SchedulerMixin, where: str) -> None:
    """Raises UnboxError for a scheduler that samples otherwise than by betas: of EDM, of flow matching."""
    if not all(hasattr(scheduler, name) for name in ("alphas_cumprod", "init_noise_sigma")):
        raise UnboxError(
            f"{where} ships {type(scheduler).__name__}, which does not sample by betas as SDXL is trained: "
            "name the system that it is, system= (--system)"
        )
