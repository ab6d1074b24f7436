"""In which numbers the encoder's product is taken, where a plan leaves it open."""

import torch

from unbox.models.bf16_support import multiplies_bf16
from unbox.sae.plan import Precision


def product_precision(precision: Precision, device: torch.device) -> Precision:
    """`bf16` or `fp32`, of the encoder's product; `auto` is bf16 where a device has instructions for it."""
    if precision != "auto":
        return precision
    return "bf16" if multiplies_bf16(device) else "fp32"


def low_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """dtype of the encoder's products."""
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[product_precision(precision, device)]
