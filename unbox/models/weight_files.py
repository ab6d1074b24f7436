"""Files of weights by what is in them: names and shapes of their tensors, and what kind of model that is."""

from collections.abc import Collection
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeAlias
from zipfile import is_zipfile

import torch
from safetensors import safe_open

from unbox.errors import UnboxError

#: Tensor's name -> shape.
Shapes: TypeAlias = dict[str, tuple[int, ...]]

_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
#: Marks in tensors' names of adapters that are no LoRAs -> what they are called.
OTHER_ADAPTERS = {
    "hada_w1": "a LoHa",
    "lokr_w": "a LoKr",
    "oft_": "an OFT",
    "boft_": "a BOFT",
    "ia3_": "an IA3",
    "on_input": "an IA3",
    "glora": "a GLoRA",
}


def shapes_of(path: Path) -> Shapes:
    """Names and shapes of a file's tensors. Raises UnboxError for pickles of more than tensors."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return {name: tuple(tensor.shape) for name, tensor in unpickled(path).items()}


def unpickled(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a `.bin`, `.ckpt` or `.pt`, and nothing else of it. Raises UnboxError where there is."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except UnpicklingError as error:
        raise UnboxError(
            f"{path} is not a pickle of tensors alone, and anything else in one could run programs: "
            "get the weights as .safetensors"
        ) from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise UnboxError(f"{path} holds a {type(content).__name__}, and not tensors by name")
    return {name: tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}


def stored_dtype(files: Collection[Path]) -> torch.dtype | None:
    """The type of the first floating tensor of the files that are safetensors; None if none is found."""
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    kind = tensors.get_slice(name).get_dtype()
                    if kind in _DTYPES:
                        return _DTYPES[kind]
    return None


def titles_of(path: Path) -> list[str]:
    """What a single file calls itself (`modelspec.title` of its metadata); nothing for what says nothing."""
    if path.suffix != ".safetensors":
        return []
    with safe_open(path, "pt") as tensors:
        found = tensors.metadata() or {}
    return [found[name] for name in ("modelspec.title", "modelspec.architecture") if name in found]


def kind_of(names: Collection[str]) -> str:
    """What weights of such names are, in a few words."""
    for mark, kind in OTHER_ADAPTERS.items():
        if any(mark in name for name in names):
            return kind
    if any("lora" in name for name in names):
        return "a LoRA"
    if any(name.startswith("model.diffusion_model.") for name in names):
        return "a whole checkpoint in the original layout"
    if any(name.startswith("down_blocks.") for name in names):
        return "a UNet in diffusers' layout"
    if any(name.startswith("input_blocks.") for name in names):
        return "a UNet in the original layout"
    if any(name.startswith(("encoder.", "decoder.")) for name in names):
        return "a VAE"
    if any(name.startswith(("text_model.", "transformer.")) for name in names):
        return "a text encoder"
    return f"something else, with {first(sorted(names))}"


def first(names: Collection[str]) -> str:
    """The first name, for a message."""
    return next(iter(names), "none")
