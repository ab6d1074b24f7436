"""SAEs on disk: a folder each, of `config.json`, `sae.safetensors`, `figures.json` and a model card."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le, Len
from pydantic import BeforeValidator
from torch import Tensor

from activation_store import StoreError
from activation_store.files import digest, publish_folder, write_json, write_text
from unbox.errors import FieldError, UnboxError
from unbox.json_types import JSON
from unbox.sae.safetensors_io import Shape, checked_file, read_tensors, write_tensors
from unbox.text_files import read_json_object
from unbox.validation import JSONObject, Real, Text, Whole, checked, parsed, validated

#: The second version keeps a threshold for each latent among the tensors; other SAEs are still of the first.
FORMAT, VERSION = "unbox-sae", 2
CONFIG, TENSORS, FIGURES, CARD = "config.json", "sae.safetensors", "figures.json", "README.md"
#: The tensors of an SAE, and those of its latents' statistics: fields of `SAE` and of `Stats`.
WEIGHTS = ("W_enc", "W_dec", "b_pre", "b_lat")
STATS = ("mean_active", "std_active", "max", "density")
#: What a configuration says of an SAE: attributes of `SAE`.
FACTS = ("block", "name", "k", "latents", "width", "threshold", "update_std")
#: Bounds of what a config may ask for, far over any SAE that fits in memory.
MOST = 1 << 30

#: What an active latent's pre-activation exceeds, for all or each; None: the k largest are active.
Threshold = Tensor | Sequence[float] | float | None
#: What a file says instead of numbers where each latent's is among the tensors.
AMONG_TENSORS = "tensor"
#: The same as it is in a file: a number; a list, in the first version; or AMONG_TENSORS.
ThresholdInFile = Annotated[
    Real | tuple[Real, ...] | Literal["tensor"] | None,
    BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v),
]
Dimension = Annotated[Whole, Ge(1), Le(MOST)]
ShortText = Annotated[Text, Len(0, 300)]
#: Figures that are shown of an SAE wherever it is; others are for whoever asks for them.
SHOWN_FIGURES = ("fvu", "l0", "dead_fraction", "dense_fraction")


@validated
class SAEConfig:
    """`config.json`: what is known of an SAE beside its tensors."""

    format: Literal["unbox-sae"]
    version: Literal[1, 2]
    block: ShortText
    name: ShortText
    k: Dimension
    latents: Dimension
    width: Dimension
    threshold: ThresholdInFile
    update_std: Annotated[Real, Ge(0)]
    stats: bool
    """Whether the statistics of its latents are among the tensors."""
    digest: Text
    """Of the file of tensors."""
    meta: JSONObject

    def __post_init__(self) -> None:
        if self.k > self.latents:
            raise FieldError("", "k", self.k, f"k is at most the latents, {self.latents:,}")
        if isinstance(self.threshold, tuple) and len(self.threshold) != self.latents:
            raise FieldError("", "threshold", self.threshold, f"should be one for each of {self.latents:,}")
        for key, needed in (("training", set()), ("imported", {"format", "folder"})):
            value = self.meta.get(key)
            if value and not (isinstance(value, dict) and needed <= value.keys()):
                raise FieldError("", f"meta.{key}", value, f"should be an object with {needed or 'keys'}")


def threshold_tensor(threshold: Threshold, latents: int, device: torch.device) -> Tensor | None:
    """() or (n,) float64. Raises UnboxError for another shape, and for numbers that are not finite."""
    if threshold is None:
        return None
    found = torch.as_tensor(threshold, dtype=torch.float64).detach()
    if found.shape not in ((), (latents,)) or not bool(found.isfinite().all()):
        raise UnboxError(
            f"a threshold is a finite number, or one for each of {latents:,} latents, this is of shape "
            f"{tuple(found.shape)}"
        )
    return found if device.type == "mps" else found.to(device)


def threshold_value(threshold: Tensor | None) -> float | tuple[float, ...] | None:
    """A threshold as plain numbers."""
    if threshold is None:
        return None
    return float(threshold) if threshold.ndim == 0 else tuple(threshold.tolist())


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

    `tensors`: WEIGHTS, and `stats.<name>` of STATS where they were taken. `facts`: FACTS, a threshold for
    each latent as a tuple of floats.
    """
    meta, facts, tensors = dict(meta), dict(facts), {name: tensor.float() for name, tensor in tensors.items()}
    version = 1
    if isinstance(each := facts["threshold"], tuple):
        version, facts["threshold"] = VERSION, AMONG_TENSORS
        tensors["threshold"] = torch.tensor(each, dtype=torch.float64)
    figures = meta.pop("figures", None)
    try:
        with publish_folder(folder, replace=overwrite, same=not overwrite) as temporary:
            write_tensors(temporary / TENSORS, tensors)
            config: JSON = {
                "format": FORMAT,
                "version": version,
                **facts,
                "stats": f"stats.{STATS[0]}" in tensors,
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
    n, d = config.latents, config.width
    shapes: dict[str, Shape | None] = {"W_enc": (n, d), "W_dec": (n, d), "b_pre": (d,), "b_lat": (n,)}
    if config.stats:
        shapes |= {f"stats.{name}": (n,) for name in STATS}
    if config.threshold == AMONG_TENSORS:
        shapes["threshold"] = (n,)
    if digest(checked_file(folder / TENSORS)) != config.digest:
        raise UnboxError(f"{folder / TENSORS} is damaged or of another SAE: its digest is not the config's")
    read = read_tensors(folder / TENSORS, shapes)
    threshold = read.pop("threshold", config.threshold)
    tensors = {name: tensor.float() for name, tensor in read.items()}
    meta = dict(config.meta)
    if (folder / FIGURES).is_file():
        meta["figures"] = read_json_object(folder / FIGURES)
    _check_figures(meta.get("figures", {}), folder / FIGURES)
    facts = {key: getattr(config, key) for key in ("k", "block", "name", "update_std")}
    return tensors, {**facts, "threshold": threshold, "meta": meta}


def _check_figures(figures: JSON, path: Path) -> None:
    """Raises FieldError where the figures that are shown of every SAE are no numbers."""
    figures = checked(JSONObject, "figures", figures, str(path))
    for key in SHOWN_FIGURES:
        checked(Real, key, figures.get(key, 0), str(path))


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


def _config(folder: Path) -> SAEConfig:
    config = read_json_object(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise UnboxError(
            f"{folder / CONFIG} is not of an SAE of ours; checkpoints of other packages come in by "
            "`unbox sae import`"
        )
    version = config.get("version")
    if type(version) is int and version > VERSION:
        raise UnboxError(f"{folder} is of format {version}; this unbox reads up to {VERSION}: update it")
    return parsed(SAEConfig, config, str(folder / CONFIG))
