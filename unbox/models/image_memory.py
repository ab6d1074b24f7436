"""What a batch of images takes of memory at least, asked before anything of it is taken.

Each picture is float32 in the end: 12 bytes a pixel. While it is decoded, the VAE holds two maps of its
second width over all pixels (SDXL: 2 x 256 channels in float32, 2 GB for 1024 x 1024) of the pictures that it
decodes at one time (`unbox.models.bounded_vae`); a run that keeps
latents holds two maps of the UNet's first width over the latent's places instead. More is taken in truth:
what is refused here would not have fitted.
"""

from typing import Protocol

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from unbox.errors import UnboxError
from unbox.memory_limit import require, size_text
from unbox.models.bounded_vae import TILE_PIXELS, BoundedVAE, at_once
from unbox.models.calls import Sampling

#: Bytes of a pixel in float32.
PIXEL = 3 * 4


class Placed(Protocol):
    """What is asked of a model: its pipeline, and where it computes."""

    pipeline: DiffusionPipeline

    @property
    def device(self) -> torch.device: ...


def require_pictures(count: int, height: int, width: int, door: str = "generate") -> None:
    """Raises UnboxError where so many pictures of a batch are more than a request may take as float32.

    Needs no model: asked before one is loaded.
    """
    require(count * height * width * PIXEL, _what(count, height, width), door)


def require_run(model: Placed, sampling: Sampling, images: int) -> None:
    """Raises UnboxError where a run of so many images takes more memory than it may, or than there is."""
    call, height, width = sampling.call, sampling.height, sampling.width
    batch = min(images, call.batch_size)
    maps = _maps(model.pipeline, sampling, batch)
    results = images * height * width * {"pil": 3, "np": PIXEL, "latent": 0}[call.output]
    held = results + (0 if call.output == "latent" else batch * height * width * PIXEL)
    what = _what(batch, height, width)
    if model.device.type != "cuda":
        require(held + maps, what, "generate")
        return
    require(held, what, "generate")
    there = torch.cuda.get_device_properties(model.device).total_memory
    if maps > there:
        raise UnboxError(
            f"generate: {what} would take {size_text(maps)} of {model.device}, which has {size_text(there)}: "
            "take a smaller size or batch size"
        )


def _maps(pipeline: DiffusionPipeline, sampling: Sampling, batch: int) -> int:
    """Bytes of the two largest maps that are there at once, at least."""
    vae, unet, places = pipeline.vae, pipeline.unet, sampling.height * sampling.width
    if sampling.call.output == "latent":
        rows = batch * (2 if sampling.guidance > 1 else 1)
        channels = unet.config.block_out_channels[0]
        return 2 * rows * channels * (places // pipeline.vae_scale_factor**2) * unet.dtype.itemsize
    if getattr(vae, "use_tiling", False):
        return 0
    widths = vae.config.block_out_channels
    once = 1 if getattr(vae, "use_slicing", False) else batch
    if isinstance(vae, BoundedVAE):
        once = min(once, at_once(places))
        places = places if places <= TILE_PIXELS else min(places, vae.tile_sample_min_size**2)
    size = 4 if vae.config.get("force_upcast") else vae.dtype.itemsize
    return 2 * once * widths[min(1, len(widths) - 1)] * places * size


def _what(count: int, height: int, width: int) -> str:
    return f"a batch of {count:,} images of {height:,} x {width:,} pixels"
