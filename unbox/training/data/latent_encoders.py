"""What a model's VAE and text encoders make of a training example."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from unbox.models.model import Model, weight_hash
from unbox.models.prompt_length import unlogged
from unbox.result_cache import key_of

#: Type that latents and text embeddings are kept in.
KEPT = torch.float16


@dataclass(frozen=True)
class LatentEncoders:
    """VAE and text encoders of an SDXL-like model."""

    model: Model

    @cached_property
    def identity(self) -> dict[str, str]:
        """What tells them from others, by name: digests of their weights as they are in memory."""
        pipeline = self.model.pipeline
        texts = [each for each in (pipeline.text_encoder, pipeline.text_encoder_2) if each is not None]
        scaling = ("scaling_factor", "latents_mean", "latents_std")
        config = {name: pipeline.vae.config.get(name) for name in scaling}
        return {
            "VAE": key_of([weight_hash(pipeline.vae), config], 16),
            "text encoders": key_of([weight_hash(each) for each in texts], 16),
        }

    @torch.no_grad()
    def latents(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """(n, channels, h, w) float16 on CPU of n images (height, width, 3) uint8 of one size: the mode of
        the posterior, normalised as the model's pipeline has it; in float32 where the VAE asks for that."""
        vae = self.model.pipeline.vae
        before = vae.dtype
        lifted = before == torch.float16 and vae.config.force_upcast
        if lifted:
            vae.to(torch.float32)
        try:
            images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
            images = images.to(self.model.device).to(vae.dtype) / 127.5 - 1
            mode = vae.encode(images).latent_dist.mode().float()
        finally:
            if lifted:
                vae.to(before)
        return normalised(mode, vae.config).to(KEPT).cpu()

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(n, tokens, width) and pooled (n, width) float16 on CPU."""
        pipeline = self.model.pipeline
        with unlogged(pipeline):
            context, _, pooled, _ = pipeline.encode_prompt(
                list(captions), device=self.model.device, do_classifier_free_guidance=False
            )
        return context.to(KEPT).cpu(), pooled.to(KEPT).cpu()

    def unconditional(self) -> tuple[Tensor, Tensor]:
        """What stands for no caption, of one example: zeros, or the empty text where the model is so."""
        context, pooled = self.texts([""])
        if self.model.pipeline.config.get("force_zeros_for_empty_prompt", True):
            return torch.zeros_like(context), torch.zeros_like(pooled)
        return context, pooled

    def text_shape(self) -> tuple[int, int, int]:
        """Tokens, width of a token's state, width of the pooled vector."""
        pipeline = self.model.pipeline
        tokens = pipeline.tokenizer_2.model_max_length
        width = pipeline.unet.config.cross_attention_dim
        return tokens, width, pipeline.text_encoder_2.config.projection_dim

    def move(self, device: torch.device | str) -> None:
        """Let the VAE and the text encoders be elsewhere: what is not in use needs no accelerator memory."""
        pipeline = self.model.pipeline
        for each in (pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
            if each is not None:
                each.to(device)


def normalised(latents: Tensor, config: "dict[str, float | list[float] | None]") -> Tensor:
    """A VAE's latents (n, channels, h, w) as the UNet sees them: scaled, and centred where the VAE's
    configuration has mean and deviation (the inverse of what the pipeline does before it decodes)."""
    scale, centre, spread = _scaling(latents, config)
    return (latents - centre) * scale / spread


def unnormalised(latents: Tensor, config: "dict[str, float | list[float] | None]") -> Tensor:
    """The inverse of `normalised`: what a VAE decodes."""
    scale, centre, spread = _scaling(latents, config)
    return latents * spread / scale + centre


def _scaling(
    latents: Tensor, config: "dict[str, float | list[float] | None]"
) -> tuple[float, Tensor | float, Tensor | float]:
    """Scale, mean and deviation, which broadcast against latents."""
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    scale = float(config["scaling_factor"])  # type: ignore[arg-type]  # every VAE has one
    if mean is None or deviation is None:
        return scale, 0.0, 1.0
    centre, spread = (
        torch.tensor(value, device=latents.device).view(1, -1, 1, 1) for value in (mean, deviation)
    )
    return scale, centre, spread
