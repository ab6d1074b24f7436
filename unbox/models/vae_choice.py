"""The VAE in the place of a model's own: a published one by name, a repository, a folder or a file."""

from pathlib import Path

import torch

from unbox.errors import UnboxError
from unbox.models.hub import component_folder
from unbox.models.pipeline_files import chosen
from unbox.models.weight_files import kind_of, shapes_of
from unbox.text_files import read_json_object

#: Published VAEs for SDXL's latents: name -> Hub id. Both are MIT licensed.
VAES = {
    "fp16-fix": "madebyollin/sdxl-vae-fp16-fix",
    "taesd": "madebyollin/taesdxl",
}
_KINDS = ("AutoencoderKL", "AutoencoderTiny")


def find_vae(asked: str, download: bool = True) -> Path:
    """Folder or file of the VAE asked for: a name of `VAES`, a Hub id, a folder or a file.

    Raises UnboxError for what is none of these.
    """
    path = Path(asked).expanduser() if asked.startswith("~") else Path(asked)
    if asked in VAES:
        return component_folder(VAES[asked], download)
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        if not (folder / "config.json").is_file():
            raise UnboxError(f"vae (--vae) {asked} is a folder without config.json, so no VAE's")
        return folder
    if path.is_file():
        return path
    if asked.count("/") == 1 and not asked.startswith((".", "/", "~")):
        return component_folder(asked, download)
    raise UnboxError(
        f"there is no VAE {asked}: give a name ({', '.join(VAES)}), a Hub id, a folder with config.json, or "
        "a file"
    )


def load_vae(place: Path, config: Path, dtype: torch.dtype, channels: int) -> torch.nn.Module:
    """The VAE of a folder, or of a file (then `config` is a pipeline's folder, whose `vae/` describes it).

    `channels`: of the latents that the UNet takes. Raises UnboxError for what is no VAE of such latents.
    """
    import diffusers

    if place.is_file():
        shapes = shapes_of(place)
        if not any("decoder." in name for name in shapes):
            raise UnboxError(f"{place} is no VAE, but {kind_of(shapes)}")
        return diffusers.AutoencoderKL.from_single_file(
            str(place), config=str(config), subfolder="vae", dtype=dtype, local_files_only=True
        ).eval()
    settings = read_json_object(place / "config.json")
    kind = settings.get("_class_name")
    if kind not in _KINDS:
        raise UnboxError(f"{place} is no VAE that SDXL can use, but {kind}: {' or '.join(_KINDS)} is")
    if settings.get("latent_channels", 4) != channels:
        raise UnboxError(
            f"{place} is a VAE of {settings['latent_channels']} latent channels; the UNet takes {channels}"
        )
    weights = chosen([path.name for path in place.iterdir()], f"the VAE's folder {place}")
    return (
        getattr(diffusers, str(kind))
        .from_pretrained(place, dtype=dtype, variant=weights.variant or None, local_files_only=True)
        .eval()
    )
