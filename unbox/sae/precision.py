"""In which numbers the encoder's product is taken, where a plan leaves it open."""

import torch

from unbox.sae.plan import Precision


def product_precision(precision: Precision, device: torch.device) -> Precision:
    """`bf16` or `fp32`, of the encoder's product; `auto` is bf16 where a device has instructions for it."""
    if precision != "auto":
        return precision
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    on_cpu = any(getattr(torch.cpu, check, bool)() for check in checks)
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if on_gpu or (device.type == "cpu" and on_cpu) else "fp32"


def low_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """dtype of the encoder's products."""
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[product_precision(precision, device)]
