"""ControlNets for a model: weights that steer its UNet by a picture of edges, depth, poses and the like."""

from pathlib import Path

import torch

from unbox.errors import UnboxError
from unbox.models.hub import component_folder, quiet
from unbox.models.model import Model
from unbox.validation import FilePath, Text, checked

CONFIG = "config.json"


def load_controlnet(model: Model, source: str | Path, *, download: bool = True) -> torch.nn.Module:
    """Give a model a ControlNet, in its type and on its device: a diffusers folder, or a Hub id.

    `model.generate(..., control=picture)` then follows the picture. It replaces one that the model had.
    Raises UnboxError for weights that are nowhere and for a ControlNet of another UNet.
    """
    from diffusers import ControlNetModel

    source = str(checked(FilePath if isinstance(source, Path) else Text, "source", source, "load_controlnet"))
    download = checked(bool, "download", download, "load_controlnet")
    folder = _folder(source, download)
    half = any(folder.glob("*.fp16.safetensors"))
    with quiet():
        try:
            controlnet = ControlNetModel.from_pretrained(
                folder, dtype=model.dtype, variant="fp16" if half else None, local_files_only=True,
                use_safetensors=True,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UnboxError(
                f"{folder} could not be loaded as a ControlNet ({type(error).__name__}: {error})"
            ) from error
    check_fit(controlnet, model.unet, source)
    pixels = 2 ** (len(controlnet.config["conditioning_embedding_out_channels"]) - 1)
    if pixels != (own := model.pipeline.vae_scale_factor):
        raise UnboxError(
            f"the ControlNet {source} takes pictures of {pixels} pixels to a latent, this model's VAE has "
            f"{own}"
        )
    model.controlnet = controlnet.eval().to(model.device)
    return model.controlnet


def check_fit(controlnet: torch.nn.Module, unet: torch.nn.Module, source: str) -> None:
    """Raises UnboxError for a ControlNet that was made for a UNet of other widths."""
    for name in ("block_out_channels", "cross_attention_dim", "transformer_layers_per_block", "in_channels"):
        own, wanted = (part.config[name] for part in (controlnet, unet))  # type: ignore[index]
        own, wanted = (tuple(each) if isinstance(each, list | tuple) else each for each in (own, wanted))
        if own != wanted:
            raise UnboxError(
                f"the ControlNet {source} is for another UNet: its {name} is {own}, this model's {wanted}"
            )


def _folder(source: str, download: bool) -> Path:
    """The folder with configuration and weights: here, or from the Hub."""
    path = Path(source)
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise UnboxError(f"{source} is no ControlNet: it has no {CONFIG}")
        return path
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UnboxError(f"there is no ControlNet at {source}; give a diffusers folder or a Hub id")
    return component_folder(source, download)
