"""SAEs on disk: a folder each, of `config.json`, `sae.safetensors`, `figures.json` and a model card."""

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from activation_store import StoreError
from activation_store.files import digest, publish_folder, read_json, write_json, write_text
from unbox.errors import UnboxError
from unbox.sae.model import SAE, STATS, WEIGHTS, Stats
from unbox.sae.model_card import card
from unbox.sae.safetensors_io import read_tensors, write_tensors

FORMAT, VERSION = "unbox-sae", 1
CONFIG, TENSORS, FIGURES, CARD = "config.json", "sae.safetensors", "figures.json", "README.md"
#: Bounds of what a config may ask for, far over any SAE that fits in memory.
MOST = 1 << 30


def save(sae: SAE, folder: str | os.PathLike, overwrite: bool = False) -> None:
    """Write an SAE's folder, whole or not at all. An existing folder is an error unless `overwrite`."""
    try:
        with publish_folder(folder, replace=overwrite) as temporary:
            write_into(sae, temporary)
    except StoreError as error:
        raise UnboxError(str(error)) from None


def write_into(sae: SAE, folder: Path) -> None:
    """Write an SAE's files into a folder that is there."""
    tensors = {name: getattr(sae, name).float() for name in WEIGHTS}
    if sae.stats is not None:
        tensors |= {f"stats.{name}": getattr(sae.stats, name).float() for name in STATS}
    write_tensors(folder / TENSORS, tensors)
    meta = dict(sae.meta)
    figures = meta.pop("figures", None)
    write_json(folder / CONFIG, {**_facts(sae), "digest": digest(folder / TENSORS), "meta": meta})
    if figures is not None:
        write_json(folder / FIGURES, figures)
    write_text(folder / CARD, card(sae))


def load(folder: str | os.PathLike, device: Any = "cpu") -> SAE:
    """Read an SAE's folder. Raises UnboxError for whatever is not exactly one, and runs nothing in it."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise UnboxError(f"{folder} holds no SAE: there is no {CONFIG}; `unbox train` writes such folders")
    config = _config(folder)
    n, d = config["latents"], config["width"]
    shapes: dict[str, Any] = {"W_enc": (n, d), "W_dec": (n, d), "b_pre": (d,), "b_lat": (n,)}
    if config["stats"]:
        shapes |= {f"stats.{name}": (n,) for name in STATS}
    if digest(folder / TENSORS) != config["digest"]:
        raise UnboxError(f"{folder / TENSORS} is damaged or of another SAE: its digest is not the config's")
    tensors = read_tensors(folder / TENSORS, shapes)
    meta = dict(config["meta"])
    if (folder / FIGURES).is_file():
        meta["figures"] = _json(folder / FIGURES)
    return SAE(
        **{name: tensors[name].float().to(device) for name in WEIGHTS},
        k=config["k"],
        block=config["block"],
        name=config["name"],
        threshold=_threshold(config["threshold"], n),
        stats=Stats(*(tensors[f"stats.{name}"].float() for name in STATS)) if config["stats"] else None,
        update_std=config["update_std"],
        meta=meta,
    )


def load_saes(folder: str | os.PathLike, device: Any = "cpu") -> dict[str, SAE]:
    """Every SAE in a folder (or the folder itself), keyed by block where each has its own, else by name.

    Raises UnboxError if there is none.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UnboxError(f"{root} is not a folder; SAEs are folders that `unbox train` writes")
    own = [root] if is_sae(root) else []
    folders = own or sorted(p for p in root.iterdir() if p.is_dir() and is_sae(p))
    if not folders:
        raise UnboxError(f"there is no SAE in {root}; `unbox train --out {root}` writes some")
    saes = {path.name: load(path, device) for path in folders}
    blocks = [sae.block for sae in saes.values()]
    if len(set(blocks)) == len(blocks) and all(blocks):
        return {sae.block: sae for sae in saes.values()}
    return {name: replace(sae, name=name) for name, sae in saes.items()}


def is_sae(folder: Path) -> bool:
    """True for a folder with an SAE's files; temporaries of writers are none."""
    return not folder.name.endswith(".tmp") and (folder / TENSORS).is_file() and (folder / CONFIG).is_file()


def _facts(sae: SAE) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "block": sae.block,
        "name": sae.name,
        "k": sae.k,
        "latents": sae.latents,
        "width": sae.width,
        "threshold": sae.threshold,
        "update_std": sae.update_std,
        "stats": sae.stats is not None,
    }


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


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
    config = _json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
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


def _threshold(value: Any, latents: int) -> float | tuple[float, ...] | None:
    if isinstance(value, list):
        if len(value) != latents:
            raise UnboxError(f"the config has {len(value)} thresholds for {latents} latents")
        return tuple(map(float, value))
    return None if value is None else float(value)


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except StoreError as error:
        raise UnboxError(str(error)) from None
