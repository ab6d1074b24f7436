"""The device that a user names, checked against those that are here."""

import torch

from unbox.errors import UnboxError, shown


def devices() -> list[str]:
    """The devices that are here, as they are named."""
    found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found.append("mps")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        found += [f"xpu:{number}" for number in range(torch.xpu.device_count())]
    return found


def find_device(asked: str | int | torch.device | None = None, number: int | None = None) -> torch.device:
    """The device asked for; None: the GPU (of this `number`, if given) if there is one, else the CPU.

    Raises UnboxError, listing those that are here, for one that is not.
    """
    here = devices()
    if asked is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        asked = "cuda" if number is None else f"cuda:{number}"
    name = str(asked)
    try:
        device = torch.device(f"cuda:{asked}" if isinstance(asked, int) else asked)
        name, known = str(device), f"{device.type}:{device.index or 0}"
    except (RuntimeError, TypeError, ValueError):  # torch's own for names that it does not know
        known = ""
    if known not in here and known.removesuffix(":0") not in here:
        plain = name.startswith("cuda") and torch.version.cuda is None
        build = "; this torch is built without CUDA" if plain else ""
        raise UnboxError(f"there is no device {shown(name)} here; there is {', '.join(here)}{build}")
    return device
