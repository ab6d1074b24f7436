"""The device that a user names, checked against those that are here; what each can compute with.

Of accelerators only NVIDIA's were there to be tried: AMD's answer to the same names, and what is said of
Intel's (xpu) and Apple's (mps) follows torch's documentation.
"""

import torch

from unbox.errors import UnboxError, shown


def devices() -> list[str]:
    """The devices that are here, as they are named."""
    found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if _available("xpu"):
        found += [f"xpu:{number}" for number in range(torch.xpu.device_count())]
    return [*found, "mps"] if _available("mps") else found


#: Accelerators, the first that is here taken where none is named.
ACCELERATORS = ("cuda", "xpu", "mps")


def find_device(asked: str | int | torch.device | None = None, number: int | None = None) -> torch.device:
    """The device asked for; None: the first of `ACCELERATORS` that is here (of this `number`, if given, where
    there are several), else the CPU.

    Raises UnboxError, listing those that are here, for one that is not.
    """
    here = devices()
    if asked is None:
        kind = next((kind for kind in ACCELERATORS if _available(kind)), "cpu")
        asked = kind if number is None or kind not in ("cuda", "xpu") else f"{kind}:{number}"
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


def computed_type(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The type in which weights stored in another are computed on a device, unless one is asked for.

    As stored, but for a CPU's float16, which is slow and is float32 then, and bfloat16 where the device has
    none of its own (NVIDIA's before Ampere, Apple's) and float16 is taken.
    """
    if device.type == "cpu" and stored == torch.float16:
        return torch.float32
    return torch.float16 if stored == torch.bfloat16 and not computes_bfloat16(device) else stored


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself. Apple's are taken not to: macOS 13 has none."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != "mps" and (device.type != "xpu" or torch.xpu.is_bf16_supported())


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what was asked of it."""
    if device.type in ACCELERATORS:
        getattr(torch, device.type).synchronize()


def _available(kind: str) -> bool:
    """Whether an accelerator of this kind is here."""
    backend = torch.backends.mps if kind == "mps" else getattr(torch, kind)
    return bool(backend.is_available())


def to_device(x: torch.Tensor, target: torch.Tensor | torch.device) -> torch.Tensor:
    """`x` of the host on a device, or on the device and in the type of a tensor, which nothing waits for.

    A GPU fetches it from pinned memory while the host goes on; torch keeps that memory until it has.
    """
    device = target if isinstance(target, torch.device) else target.device
    dtype = x.dtype if isinstance(target, torch.device) else target.dtype
    if device.type == "cuda" and x.device.type == "cpu" and torch.cuda.is_available():
        x = x.to(dtype).pin_memory()
    return x.to(device=device, dtype=dtype, non_blocking=device.type == "cuda")
