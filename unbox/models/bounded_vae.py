"""A VAE whose memory does not grow with the batch, and that is cast to float32 once.

SDXL's VAE in float32 takes 4 GiB for a picture of 1024 x 1024 (measured, docs/gpu.md), eight at once 32. So
pictures are coded a few at a time, as many as `SLICE_PIXELS` holds (one at least), and those of more than
`TILE_PIXELS` in tiles of the VAE's own size that overlap and are blended, which changes them a little.

It overflows in float16 and asks to be computed in float32 (`force_upcast`), for which pipelines cast it there
and back in every call. Here it is cast once: it says that it is of the type that it was last cast to, and its
weights are float32 throughout.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

#: Pixels coded at one time: a picture of 1024 x 1024, four of 512 x 512.
SLICE_PIXELS = 1024 * 1024
#: Pixels of a picture above which it is coded in tiles.
TILE_PIXELS = 1536 * 1536


def at_once(pixels: int) -> int:
    """How many pictures of so many pixels are coded at one time."""
    return max(1, SLICE_PIXELS // pixels)


def bounded(vae: torch.nn.Module) -> torch.nn.Module:
    """The same VAE, bounded from now on; kinds other than AutoencoderKL stay as they are, being small."""
    if type(vae) is not AutoencoderKL:
        return vae
    nominal = vae.dtype
    settings: Any = vae.config
    if lifted := nominal == torch.float16 and bool(settings.get("force_upcast")):
        vae.to(torch.float32)
    vae.__class__ = BoundedVAE
    setattr(vae, "nominal", nominal if lifted else None)  # noqa: B010 - it is of the class only now
    return vae


def bound_vae(pipeline: DiffusionPipeline) -> None:
    """Bound a pipeline's VAE; its own way to cast one warns that it will go, in every process once."""
    vae = pipeline.vae = bounded(pipeline.vae)
    pipeline.upcast_vae = lambda: vae.to(torch.float32)


class BoundedVAE(AutoencoderKL):
    """What `bounded` makes of an AutoencoderKL."""

    use_tiling: bool
    nominal: torch.dtype | None
    """The type that it says it is of, while its weights are float32; None: that of its weights."""

    @property
    def dtype(self) -> torch.dtype:
        """As the pipelines know it: float16 where its weights came in float16, unless cast to another."""
        return self.nominal or super().dtype

    def to(self, *args: Any, **kwargs: Any) -> "BoundedVAE":
        """Move it; of a VAE that was cast to float32 a type is noted, and its weights are left alone."""
        if self.nominal is None:
            return super().to(*args, **kwargs)
        device, dtype, blocking, layout = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is not None:
            self.nominal = dtype
        if device is not None or layout is not None:
            more = {} if layout is None else {"memory_format": layout}
            super().to(device=device, non_blocking=blocking, **more)
        return self

    @property
    def _scale(self) -> int:
        """Pixels to a latent, along a side."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        encode = super()._encode
        with self._tiled(x.shape[-2] * x.shape[-1]) as count:
            parts = [encode(part) for part in self._weights_type(x).split(count)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _decode(self, z: torch.Tensor, return_dict: bool = True) -> Any:
        decode = super()._decode
        with self._tiled(z.shape[-2] * z.shape[-1] * self._scale**2) as count:
            parts = [decode(part).sample for part in self._weights_type(z).split(count)]
        decoded = parts[0] if len(parts) == 1 else torch.cat(parts)
        return DecoderOutput(sample=decoded) if return_dict else (decoded,)

    def _weights_type(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.nominal is None else x.to(torch.float32)

    @contextmanager
    def _tiled(self, pixels: int) -> Iterator[int]:
        """Tiles for a picture of so many pixels, where it needs them; how many are coded at one time."""
        before = self.use_tiling
        self.use_tiling = before or pixels > TILE_PIXELS
        try:
            yield at_once(pixels)
        finally:
            self.use_tiling = before


# What is saved of it is an AutoencoderKL, and says so.
BoundedVAE.__name__, BoundedVAE.__module__ = "AutoencoderKL", AutoencoderKL.__module__
