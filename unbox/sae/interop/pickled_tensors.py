"""Files of `torch.save`, which are pickles: read by torch's weights-only reader alone, on request.

That reader builds tensors and containers and nothing else. Only the layouts of other packages need it.
"""

import io
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from activation_store.files import write_bytes
from unbox.errors import UnboxError
from unbox.sae.safetensors_io import checked_file

#: How torch's reader fails on files that are damaged, or that are pickles of other things.
DAMAGED = (
    OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError,
    pickle.UnpicklingError, struct.error,
)  # fmt: skip


def read_pickled(path: Path) -> Any:
    """What a file holds. Raises UnboxError for anything but tensors in plain containers."""
    try:
        return torch.load(checked_file(path), map_location="cpu", weights_only=True)
    except DAMAGED as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnboxError(f"{path} is refused: it is not a file of plain tensors ({first[:200]})") from None


def write_pickled(path: Path, value: Tensor | Mapping[str, Any]) -> None:
    """Write tensors as `torch.save` does."""
    data = io.BytesIO()  # torch's own errors of a full disk say neither that nor where
    torch.save(value, data)
    write_bytes(path, data.getbuffer())


def floats(
    state: Mapping[str, Tensor] | None, key: str, shape: tuple[int, ...], at: Path, finite: bool = True
) -> Tensor:
    """One tensor of a file's, as float32. Raises UnboxError where it is not there, of another shape, no
    floats, or, if `finite`, holds NaN or infinity."""
    value = state.get(key) if isinstance(state, dict) else None
    if not isinstance(value, Tensor) or tuple(value.shape) != shape or not value.is_floating_point():
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise UnboxError(f"{at}: {key} must be floats of shape {shape}, it is {found}")
    if finite and not value.isfinite().all():
        raise UnboxError(f"{at}: {key} holds NaN or infinity")
    return value.detach().float().contiguous()


def only(
    state: object, keys: Mapping[str, tuple[int, ...]], at: Path, ignored: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The tensors of a state, of these shapes and no others. Raises UnboxError, by its name, for every
    other one that is there and not `ignored`: it may change codes."""
    names = set(state) if isinstance(state, dict) else set()
    if unknown := sorted(map(str, names - set(keys) - set(ignored))):
        raise UnboxError(f"{at}: {', '.join(unknown)}: not known here, and may change codes; it is not read")
    return {
        key: floats(state if isinstance(state, dict) else None, key, shape, at) for key, shape in keys.items()
    }
