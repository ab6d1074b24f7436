"""Which devices multiply bfloat16 by instructions of their own: elsewhere it is emulated, ten to a hundred
times as slow as float32."""

import torch


def multiplies_bf16(device: torch.device) -> bool:
    """Whether products in bfloat16 are worth while on a device."""
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, check, bool)() for check in checks)
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def bf16_products(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 on a device that multiplies it; elsewhere everything stays as it is."""
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bf16(device))
