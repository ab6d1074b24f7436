"""Writing safetensors, and reading ones that may be hostile: header bounded, names and shapes as expected."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from activation_store.files import publish_file
from unbox.errors import UnboxError
from unbox.memory_limit import require

#: Largest header that is read, in bytes. Ours take a few hundred per tensor.
HEADER_LIMIT = 1 << 20

Shape = tuple[int, ...]


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file, whole or not at all; `metadata` maps names to strings."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with publish_file(path) as temporary, disk_refusals():
        save_file(plain, temporary, metadata)  # from where the numbers are: no copy of the file in memory


@contextmanager
def disk_refusals() -> Iterator[None]:
    """Refusals of a disk that safetensors' own writing meets, inside, as the OSErrors that they are."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def checked_file(path: str | os.PathLike) -> Path:
    """The path of a file of tensors. Raises UnboxError where there is none, or one over the memory that a
    request may take."""
    path = Path(path)
    if not path.is_file():
        raise UnboxError(f"there is no file {path}")
    require(2 * path.stat().st_size, f"reading {path}")
    return path


def check_header(path: Path) -> None:
    """Raise UnboxError for a file whose header says that it is longer than any of ours."""
    with open(path, "rb") as file:
        length = file.read(8)
    if int.from_bytes(length, "little") > HEADER_LIMIT:
        raise UnboxError(f"{path} is no safetensors file: its header is over {HEADER_LIMIT:,} bytes")


def read_tensors(
    path: str | os.PathLike, shapes: Mapping[str, Shape | None] | None = None
) -> dict[str, Tensor]:
    """The tensors of a safetensors file on CPU, all finite.

    `shapes` names the tensors that must be there, and no others, with their shapes (None: of any). Raises
    UnboxError for anything else: a pickle, a huge header, lengths that do not add up, NaN.
    """
    path = checked_file(path)
    check_header(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UnboxError(f"{path} is not a valid safetensors file: {error}") from None
    shapes = dict.fromkeys(tensors) if shapes is None else shapes
    if set(tensors) != set(shapes):
        missing, extra = sorted(set(shapes) - set(tensors)), sorted(set(tensors) - set(shapes))
        what = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(extra)}"] * bool(extra)
        raise UnboxError(f"{path} {' and '.join(what)}; expected are {', '.join(sorted(shapes))}")
    for name, tensor in tensors.items():
        if (wanted := shapes[name]) is not None and tuple(tensor.shape) != wanted:
            raise UnboxError(f"{path}: {name} has shape {tuple(tensor.shape)}, {wanted} was expected")
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum()) and not tensor.isfinite().all():
            raise UnboxError(f"{path}: {name} holds NaN or infinity")
    return tensors
