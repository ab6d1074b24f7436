"""A LoRA of a lower rank and in half precision: what the package brings of trained ones."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from safetensors import safe_open
from torch import Tensor

from activation_store.files import publish_folder
from unbox.sae.safetensors_io import read_tensors, write_tensors

#: Of a layer's two factors, (rank, in) and (out, rank).
FIRST, SECOND = ".lora_A.weight", ".lora_B.weight"


def lowered(layers: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The layers whose products are the nearest (in squared error) of at most this rank, by SVD; each
    factor has half of the singular values."""
    found: dict[str, Tensor] = {}
    for name in [each.removesuffix(FIRST) for each in layers if each.endswith(FIRST)]:
        product = layers[name + SECOND].double() @ layers[name + FIRST].double()
        left, values, right = torch.linalg.svd(product, full_matrices=False)
        root = values[:rank].sqrt()
        found[name + FIRST] = root[:, None] * right[:rank]
        found[name + SECOND] = left[:, :rank] * root
    return found


def write_smaller(lora: Path, out: Path, rank: int) -> Path:
    """Write the LoRA of a folder that a recipe left at a lower rank, in float16; returns `out`."""
    file = lora / LORA_WEIGHT_NAME_SAFE
    with safe_open(file, "pt") as tensors:
        told = json.loads(tensors.metadata()[LORA_ADAPTER_METADATA_KEY])
    told |= {"unet.r": rank, "unet.lora_alpha": rank}
    layers = {name: each.half().contiguous() for name, each in lowered(read_tensors(file), rank).items()}
    with publish_folder(out, replace=True) as new:
        write_tensors(new / LORA_WEIGHT_NAME_SAFE, layers, {LORA_ADAPTER_METADATA_KEY: json.dumps(told)})
    return out
