"""Writing safetensors, and reading ones that may be hostile: header bounded, names and shapes as expected."""

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from activation_store.files import publish_file
from unbox.errors import UnboxError

#: Largest header that is read, in bytes. Ours take a few hundred per tensor.
HEADER_LIMIT = 1 << 20

Shape = tuple[int, ...]


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file, whole or not at all; `metadata` maps names to strings."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with publish_file(path) as temporary, open(temporary, "xb") as file:
        file.write(save(plain, metadata))


def read_tensors(
    path: str | os.PathLike, shapes: Mapping[str, Shape | None] | None = None
) -> dict[str, Tensor]:
    """The tensors of a safetensors file on CPU, all finite.

    `shapes` names the tensors that must be there, and no others, with their shapes (None: of any). Raises
    UnboxError for anything else: a pickle, a huge header, lengths that do not add up, NaN.
    """
    path = Path(path)
    header = _header(path)
    if shapes is not None:
        _check_names(path, header, shapes)
    try:
        tensors = load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise UnboxError(f"{path} is not a valid safetensors file: {error}") from None
    for name, tensor in tensors.items():
        if shapes is not None and (wanted := shapes[name]) is not None and tuple(tensor.shape) != wanted:
            raise UnboxError(f"{path}: {name} has shape {tuple(tensor.shape)}, {wanted} was expected")
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum()) and not tensor.isfinite().all():
            raise UnboxError(f"{path}: {name} holds NaN or infinity")
    return tensors


def _header(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > HEADER_LIMIT:
            raise UnboxError(
                f"{path} is not a safetensors file of ours: its header would be {length:,} bytes"
            )
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise UnboxError(f"{path} is not a safetensors file: its header is not JSON") from None
    if not isinstance(header, dict):
        raise UnboxError(f"{path} is not a safetensors file: its header is not an object")
    return header


def _check_names(path: Path, header: Collection[str], shapes: Collection[str]) -> None:
    found = set(header) - {"__metadata__"}
    if found != set(shapes):
        missing, extra = sorted(set(shapes) - found), sorted(found - set(shapes))
        what = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(extra)}"] * bool(extra)
        raise UnboxError(f"{path} {' and '.join(what)}; expected are {', '.join(sorted(shapes))}")
