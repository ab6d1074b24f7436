"""SAEs on disk: a folder each, of `config.json`, `sae.safetensors`, `figures.json` and a model card."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from activation_store import StoreError
from activation_store.files import JSON_LIMIT, digest, publish_folder, read_json, write_json, write_text
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.sae.safetensors_io import Shape, read_tensors, write_tensors

FORMAT, VERSION = "unbox-sae", 1
CONFIG, TENSORS, FIGURES, CARD = "config.json", "sae.safetensors", "figures.json", "README.md"
#: The tensors of an SAE, and those of its latents' statistics: fields of `SAE` and of `Stats`.
WEIGHTS = ("W_enc", "W_dec", "b_pre", "b_lat")
STATS = ("mean_active", "std_active", "max", "density")
#: What a configuration says of an SAE: attributes of `SAE`.
FACTS = ("block", "name", "k", "latents", "width", "threshold", "update_std")
#: Bounds of what a config may ask for, far over any SAE that fits in memory.
MOST = 1 << 30

#: What an active latent's pre-activation exceeds, for all or each; None: the k largest are active.
Threshold = float | tuple[float, ...] | None


def write_folder(
    folder: str | os.PathLike,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, JSON],
    meta: Mapping[str, JSON],
    card: str,
    overwrite: bool = False,
) -> None:
    """Write an SAE with its model card, whole or not at all. A folder that holds anything else is an error
    unless `overwrite`.

    `tensors`: WEIGHTS, and `stats.<name>` of STATS where they were taken. `facts`: FACTS.
    """
    meta = dict(meta)
    figures = meta.pop("figures", None)
    try:
        with publish_folder(folder, replace=overwrite, same=not overwrite) as temporary:
            write_tensors(temporary / TENSORS, {name: tensor.float() for name, tensor in tensors.items()})
            config: JSON = {
                "format": FORMAT,
                "version": VERSION,
                **facts,
                "stats": len(tensors) > len(WEIGHTS),
                "digest": digest(temporary / TENSORS),
                "meta": meta,
            }
            write_json(temporary / CONFIG, config)
            if figures is not None:
                write_json(temporary / FIGURES, figures)
            write_text(temporary / CARD, card)
    except StoreError as error:
        raise UnboxError(str(error)) from None


def read_folder(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read an SAE's folder: its tensors, and the further fields of `SAE`. Raises UnboxError for whatever is
    not exactly one, and runs nothing in it."""
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        raise UnboxError(f"{folder} holds no SAE: there is no {CONFIG}; `unbox train` writes such folders")
    config = _config(folder)
    n, d = config["latents"], config["width"]
    shapes: dict[str, Shape | None] = {"W_enc": (n, d), "W_dec": (n, d), "b_pre": (d,), "b_lat": (n,)}
    if config["stats"]:
        shapes |= {f"stats.{name}": (n,) for name in STATS}
    if digest(folder / TENSORS) != config["digest"]:
        raise UnboxError(f"{folder / TENSORS} is damaged or of another SAE: its digest is not the config's")
    tensors = {name: tensor.float() for name, tensor in read_tensors(folder / TENSORS, shapes).items()}
    meta = dict(config["meta"])
    if (folder / FIGURES).is_file():
        meta["figures"] = read_object(folder / FIGURES)
    facts = {key: config[key] for key in ("k", "block", "name", "update_std")}
    return tensors, {**facts, "threshold": _threshold(config["threshold"], n), "meta": meta}


def sae_folders(folder: str | os.PathLike) -> list[Path]:
    """The SAEs' folders in a folder, or the folder itself. Raises UnboxError if there is none."""
    root = Path(folder)
    if not root.is_dir():
        raise UnboxError(f"{root} is not a folder; SAEs are folders that `unbox train` writes")
    folders = [root] if is_sae(root) else sorted(p for p in root.iterdir() if p.is_dir() and is_sae(p))
    if not folders:
        raise UnboxError(f"there is no SAE in {root}; `unbox train --out {root}` writes some")
    return folders


def is_sae(folder: Path) -> bool:
    """True for a folder with an SAE's files; temporaries of writers are none."""
    return not folder.name.endswith(".tmp") and (folder / TENSORS).is_file() and (folder / CONFIG).is_file()


def _is_number(value: JSON) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


#: Key of the config -> what it must be.
_CHECKS = {
    "format": lambda v: v == FORMAT,
    "version": lambda v: v == VERSION,
    "block": lambda v: isinstance(v, str) and len(v) < 300,
    "name": lambda v: isinstance(v, str) and len(v) < 300,
    "k": lambda v: type(v) is int and 1 <= v <= MOST,
    "latents": lambda v: type(v) is int and 1 <= v <= MOST,
    "width": lambda v: type(v) is int and 1 <= v <= MOST,
    "threshold": lambda v: v is None or _is_number(v) or (isinstance(v, list) and all(map(_is_number, v))),
    "update_std": lambda v: _is_number(v) and v >= 0,
    "stats": lambda v: isinstance(v, bool),
    "digest": lambda v: isinstance(v, str),
    "meta": lambda v: isinstance(v, dict),
}


def _config(folder: Path) -> Mapping[str, Any]:
    config = read_object(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise UnboxError(
            f"{folder / CONFIG} is not of an SAE of ours; checkpoints of other packages come in by "
            "`unbox sae import`"
        )
    version = config.get("version")
    if type(version) is int and version > VERSION:
        raise UnboxError(f"{folder} is of format {version}; this unbox reads up to {VERSION}: update it")
    wrong = [key for key, check in _CHECKS.items() if key not in config or not check(config[key])]
    if wrong:
        raise UnboxError(f"{folder / CONFIG}: {', '.join(f'{k} = {config.get(k)!r}'[:80] for k in wrong)}")
    return config


def _threshold(value: float | list[float] | None, latents: int) -> Threshold:
    if isinstance(value, list):
        if len(value) != latents:
            raise UnboxError(f"the config has {len(value)} thresholds for {latents} latents")
        return tuple(map(float, value))
    return None if value is None else float(value)


def read_object(path: Path, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """The JSON object in a file of at most `limit` bytes. Raises UnboxError for anything else."""
    try:
        value = read_json(path, limit)
    except (StoreError, OSError) as error:
        raise UnboxError(str(error)) from None
    if not isinstance(value, dict):
        raise UnboxError(f"{path} is not a JSON object")
    return value
