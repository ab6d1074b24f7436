"""What LoRA adapters are multiplied by: a part of what decides pictures that the weights do not tell."""

from collections.abc import Iterable, Sequence

import torch

from activation_store.files import JSON
from unbox.result_cache import key_of


def adapter_strengths(
    parts: Iterable[tuple[str, torch.nn.Module]], adapters: Sequence[str]
) -> dict[str, JSON]:
    """Adapter -> strength, where any is not 1: 0 where it is turned off, a digest where layers differ.

    `parts`: the networks, with their names."""
    found: dict[str, dict[str, float]] = {name: {} for name in adapters}
    for component, part in parts:
        for path, layer in part.named_modules():
            for name in found.keys() & getattr(layer, "scaling", {}).keys():
                found[name][f"{component}.{path}"] = _strength(layer, name)
    strengths = {name: _shared(of_layer) for name, of_layer in found.items()}
    return {} if all(strength == 1 for strength in strengths.values()) else strengths


def _strength(layer: torch.nn.Module, name: str) -> float:
    """What one layer's adapter is multiplied by, beyond the alpha / r that it was trained with."""
    lora: dict[str, dict[str, float]] = vars(layer)
    if getattr(layer, "disable_adapters", False) or name not in getattr(layer, "active_adapters", [name]):
        return 0.0
    rank = lora["r"][name] ** (0.5 if (lora.get("use_rslora") or {}).get(name) else 1)
    return round(lora["scaling"][name] * rank / lora["lora_alpha"][name], 9)


def _shared(of_layer: dict[str, float]) -> JSON:
    values = set(of_layer.values()) or {1.0}
    return values.pop() if len(values) == 1 else key_of(of_layer)
