"""Checkpoints that are one file in the original layout: what they are of, and loading them.

The file has no configuration and no tokenizers: these are of a diffusers folder, by default SDXL's own or its
refiner's on the Hub, of which the texts alone are fetched (4 MB).
"""

from pathlib import Path

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from unbox.errors import UnboxError
from unbox.models.hub import texts_folder
from unbox.models.pipeline_kind import check_channels
from unbox.models.system_table import REFINER, SDXL
from unbox.models.weight_files import first, kind_of, shapes_of

#: What single files end in.
SINGLE_FILE = (".safetensors", ".ckpt")

_UNET = "model.diffusion_model."
_FIRST_LAYER = f"{_UNET}input_blocks.0.0.weight"
#: Beginnings of names of the second text encoder -> Hub id whose configuration the checkpoint has.
_ENCODERS = {"conditioner.embedders.1.model.": SDXL, "conditioner.embedders.0.model.": REFINER}


def layout_of(path: Path) -> str:
    """The Hub id, SDXL's or its refiner's, of which a checkpoint has the layout.

    Raises UnboxError for a file that holds a part of a model, or another model.
    """
    shapes = shapes_of(path)
    if not any(name.startswith(_UNET) for name in shapes):
        raise UnboxError(
            f"{path} is no whole checkpoint in the original layout, but {kind_of(shapes)}: it has "
            f"{first(shapes)} and no {_UNET}*; a UNet, a LoRA or a VAE goes over a base: unet=, lora= or "
            "vae= (--unet, --lora, --vae)"
        )
    first_layer = shapes.get(_FIRST_LAYER, ())
    if len(first_layer) == 4:
        check_channels(first_layer[1], str(path))
    for beginning, reference in _ENCODERS.items():
        if any(name.startswith(beginning) for name in shapes):
            return reference
    if any(name.startswith("cond_stage_model.") for name in shapes):
        raise UnboxError(
            f"{path} is a checkpoint of Stable Diffusion 1 or 2, not of SDXL (cond_stage_model.*)"
        )
    raise UnboxError(
        f"{path} is a checkpoint without SDXL's text encoders (conditioner.embedders.*): give a whole one, "
        "or a UNet over a base, unet= (--unet)"
    )


def config_folder(path: Path, layout: str, config: Path | None, download: bool) -> Path:
    """Folder of the configuration and tokenizers of a checkpoint: the one given, else its layout's own."""
    if config is not None:
        if not (config / "model_index.json").is_file():
            raise UnboxError(f"config (--config) {config} is no diffusers folder: it has no model_index.json")
        return config
    try:
        return texts_folder(layout, download)
    except UnboxError as error:
        raise UnboxError(
            f"{path} has no configuration and tokenizers of its own; give a diffusers folder that has, "
            f"config= (--config), or let SDXL's be fetched (4 MB): {error}"
        ) from error


def from_single_file(
    path: Path, layout: str, config: Path, dtype: torch.dtype, **parts: torch.nn.Module
) -> DiffusionPipeline:
    """The pipeline of a checkpoint, SDXL's or its refiner's; `parts` in the place of the file's own."""
    import diffusers

    refined = layout == REFINER
    kind = diffusers.StableDiffusionXLImg2ImgPipeline if refined else diffusers.StableDiffusionXLPipeline
    return kind.from_single_file(
        str(path), config=str(config), dtype=dtype, local_files_only=True, add_watermarker=False, **parts
    )
