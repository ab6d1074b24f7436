"""A set of directions without an encoder: steering vectors, a probe's normals, a transcoder's decoder.

    directions.safetensors    directions (n, d), and mean (d,) where it is known
    directions.json           {"block": "up.0.1"}, where the folder is not called that;
                              {"labels": [...], "kind": "probe"}: what they are called, of which kind

As an SAE: unit vectors, the code of each the positive part of the projection <x - mean, d / |d|>, all n of
them active.
"""

from pathlib import Path
from typing import Literal

import torch

from activation_store.files import write_json
from unbox.errors import UnboxError
from unbox.sae.direction_set import Label, NamedDirection, directions_of, meta_of
from unbox.sae.interop.common import block_of, read_config
from unbox.sae.model import SAE
from unbox.sae.safetensors_io import read_tensors, write_tensors
from unbox.site import block_path, short_name
from unbox.validation import Name, Several, validated

CONFIG, WEIGHTS = "directions.json", "directions.safetensors"


@validated
class DirectionsConfig:
    """`directions.json`."""

    block: Name | Literal[""] = ""
    labels: Several[Label] = ()
    """One for each direction; none: they are numbered."""
    kind: Label = "direction"


def recognises(folder: Path) -> bool:
    """True for a folder with a file of directions."""
    return (folder / WEIGHTS).is_file()


def read(folder: Path) -> SAE:
    """The directions as an SAE. Raises UnboxError for one that is zero."""
    at = folder / WEIGHTS
    config = read_config(DirectionsConfig, folder / CONFIG) if (folder / CONFIG).is_file() else None
    tensors = read_tensors(at)
    directions = tensors.pop("directions", None)
    if directions is None or directions.ndim != 2 or 0 in directions.shape:
        raise UnboxError(f"{at} has no `directions` (n, d)")
    n, d = directions.shape
    mean = tensors.pop("mean", torch.zeros(d))
    if tensors:
        raise UnboxError(f"{at} has {', '.join(sorted(tensors))}, which is not known: directions, mean are")
    if mean.shape != (d,):
        raise UnboxError(f"{at}: mean has shape {tuple(mean.shape)}, ({d},) was expected")
    norm = directions.double().norm(dim=1)
    if not bool((norm > 0).all()):
        raise UnboxError(f"{at}: direction {int(norm.argmin())} is zero")
    unit = (directions.double() / norm[:, None]).float()
    block = (config.block if config is not None else "") or _block(folder.name)
    return SAE(
        unit, unit.clone(), mean.float(), torch.zeros(n), n, block, block, meta=_meta(config, norm, at)
    )


def _meta(config: DirectionsConfig | None, norm: torch.Tensor, at: Path) -> dict[str, list]:
    """What the directions are, where the configuration says it."""
    if config is None or not config.labels:
        return {}
    if len(config.labels) != len(norm):
        raise UnboxError(f"{at} has {len(norm)} directions, {CONFIG} {len(config.labels)} labels")
    pairs = zip(config.labels, norm.tolist(), strict=True)
    return meta_of([NamedDirection(label, config.kind, length) for label, length in pairs])


def _block(name: str) -> str:
    """The block that a folder's name says: a short name, or a path."""
    try:
        return short_name(block_path(name))
    except UnboxError:
        return block_of(name)


def write(sae: SAE, folder: Path) -> None:
    """The directions of what is no more than that; an SAE with an encoder of its own is refused."""
    plain = torch.equal(sae.W_enc, sae.W_dec) and not bool(sae.b_lat.any()) and sae.threshold is None
    if not plain or sae.k != sae.latents:
        raise UnboxError(
            "a set of directions cannot say what this SAE's codes are: its encoder is another, or not all of "
            "its latents are active"
        )
    named = directions_of(sae)
    lengths = torch.tensor([[each.length] for each in named] or [[1.0]])
    vectors = sae.W_dec.detach().cpu().float() * lengths
    write_tensors(folder / WEIGHTS, {"directions": vectors, "mean": sae.b_pre.float()})
    said = {"labels": [each.label for each in named], "kind": named[0].kind} if named else {}
    write_json(folder / CONFIG, {"block": sae.block, **said})
