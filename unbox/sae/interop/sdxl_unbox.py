"""Checkpoints of "Unpacking SDXL Turbo" (surokpro2/sdxl-unbox, surokpro2/sdxl-saes).

    <block>_k<k>_hidden<n>_auxk<a>_bs<b>_lr<r>/final/
        config.json       {n_dirs_local, d_model, k, auxk, dead_steps_threshold}
        state_dict.pth    {"state_dict": {encoder.weight (n, d), decoder.weight (d, n), pre_bias (d),
                           latent_bias (n), stats_last_nonzero (n)}}
        mean.pt, std.pt   (n,) over active positions only

`.pth` files are pickles, read as `pickled_tensors` says.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from activation_store.files import write_json
from unbox.errors import UnboxError
from unbox.sae.interop.common import block_of, peek, read_config
from unbox.sae.interop.pickled_tensors import floats, read_pickled, write_pickled
from unbox.sae.model import SAE, Stats
from unbox.sae.sae_folder import Dimension
from unbox.site import block_path
from unbox.validation import validated

_FOLDER = re.compile(r"(?P<block>.+?)_k\d+_hidden\d+")
#: What their training code records; it has no meaning for a finished SAE.
_UNUSED = {"auxk": 256, "dead_steps_threshold": 10_000_000 // 4096}


@validated
class SdxlUnboxConfig:
    """What their config.json says of an SAE."""

    n_dirs_local: Dimension
    d_model: Dimension
    k: Dimension


def recognises(folder: Path) -> bool:
    """True for the folder of a checkpoint, or its parent where that is in `final`."""
    at = _at(folder)
    return (at / "state_dict.pth").is_file() and "n_dirs_local" in peek(at, "config.json")


def read(folder: Path) -> SAE:
    """The SAE, its statistics from mean.pt and std.pt where those are.

    They say nothing of how often a latent fires: the density of every latent with a mean over 0 is set to
    k / n, what it is on average (`meta["nominal_density"]` marks it).
    """
    at = _at(folder)
    config = read_config(SdxlUnboxConfig, at / "config.json", _UNUSED)
    n, d, k = config.n_dirs_local, config.d_model, config.k
    state = read_pickled(at / "state_dict.pth")
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    shapes = {"encoder.weight": (n, d), "decoder.weight": (d, n), "pre_bias": (d,), "latent_bias": (n,)}
    tensors = {key: floats(state, key, shape, at) for key, shape in shapes.items()}
    stats = _stats(at, n, k)
    block = _block(folder)
    return SAE(
        W_enc=tensors["encoder.weight"],
        W_dec=tensors["decoder.weight"].T.contiguous(),
        b_pre=tensors["pre_bias"],
        b_lat=tensors["latent_bias"],
        k=k,
        block=block,
        name=block,
        stats=stats,
        meta={"nominal_density": True} if stats is not None else {},
    )


def write(sae: SAE, folder: Path) -> None:
    """config.json, state_dict.pth, and mean.pt and std.pt where the SAE has statistics."""
    if sae.threshold is not None:
        raise UnboxError("the sdxl-unbox layout has no threshold; export sae.with_threshold(None) instead")
    config = {"n_dirs_local": sae.latents, "d_model": sae.width, "k": sae.k, **_UNUSED}
    write_json(folder / "config.json", config)
    state = {
        "encoder.weight": sae.W_enc,
        "decoder.weight": sae.W_dec.T.contiguous(),
        "pre_bias": sae.b_pre,
        "latent_bias": sae.b_lat,
        "stats_last_nonzero": torch.zeros(sae.latents, dtype=torch.int64),
    }
    pickles: dict[str, Tensor | dict[str, dict[str, Tensor]]] = {"state_dict.pth": {"state_dict": state}}
    if sae.stats is not None:
        pickles |= {"mean.pt": sae.stats.mean_active, "std.pt": sae.stats.std_active}
    for name, value in pickles.items():
        write_pickled(folder / name, value)


def folder_name(sae: SAE) -> str:
    """The name that their explorer looks for."""
    block = f"unet.{block_path(sae.block)}" if sae.block else "rows"
    return f"{block}_k{sae.k}_hidden{sae.latents}_auxk256_bs4096_lr0.0001"


def _at(folder: Path) -> Path:
    return folder / "final" if (folder / "final" / "config.json").is_file() else folder


def _block(folder: Path) -> str:
    for name in (folder.name, folder.parent.name):
        if match := _FOLDER.match(name):
            return block_of(match["block"])
    return ""


def _stats(at: Path, n: int, k: int) -> Stats | None:
    if not (at / "mean.pt").is_file() or not (at / "std.pt").is_file():
        return None
    mean, std = (
        floats({name: read_pickled(at / name)}, name, (n,), at, finite=False).nan_to_num(0)
        for name in ("mean.pt", "std.pt")
    )
    return Stats(mean, std, mean + std, (mean > 0).float() * (k / n))
