"""LoRA files: whether one fits a model, what of it does not, and putting it on."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)

from unbox.errors import UnboxError
from unbox.models.pipeline_files import paths_in
from unbox.models.sampling_options import LoraStrength
from unbox.models.weight_files import OTHER_ADAPTERS, first, kind_of, shapes_of
from unbox.validation import Several, checked

#: The pipeline's networks, with which names in a LoRA begin.
_NETWORKS = ("unet", "text_encoder", "text_encoder_2")


def lora_path(place: Path) -> Path:
    """The file of a LoRA: itself, or the only one of a folder. Raises UnboxError for none or several."""
    if place.is_file():
        return place
    files = [name for name in paths_in(place) if name.endswith(".safetensors")]
    if "pytorch_lora_weights.safetensors" in files:
        return place / "pytorch_lora_weights.safetensors"
    if len(files) != 1:
        listed = ", ".join(sorted(files)[:6]) or "no .safetensors"
        raise UnboxError(f"{place} holds {listed}: name the one file of a LoRA")
    return place / files[0]


def put_lora(pipeline: DiffusionPipeline, place: Path, name: str) -> None:
    """Put a LoRA on as the adapter `name`.

    Warns (UserWarning) of modules of it that the model does not have, which stay unused. Raises UnboxError
    for other kinds of adapters and for LoRAs of another architecture, with what does not fit.
    """
    path = lora_path(place)
    names = shapes_of(path)
    kind = kind_of(names)
    if kind != "a LoRA":
        known = f"only LoRAs can be put on, not {', '.join(dict.fromkeys(OTHER_ADAPTERS.values()))}"
        raise UnboxError(f"{path} is no LoRA, but {kind} ({first(names)}): {known}")
    state, alphas = _read(pipeline, path)
    modules = _modules(state, path)
    absent = _absent(pipeline, state, modules, path)
    if absent:
        warnings.warn(
            f"{len(absent)} of {len(set(modules.values()))} modules of {path.name} are not in this model and "
            f"stay unused, like {first(absent)}",
            stacklevel=2,
        )
    unused = tuple(key for key in state if modules[key] in absent)
    used = {key: tensor for key, tensor in state.items() if key not in unused}
    kept = {key: each for key, each in (alphas or {}).items() if not _is_of(key, unused)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # of a LoRA before, which is meant
        _put(pipeline, used, kept or None, name)


def set_strengths(
    pipeline: DiffusionPipeline, names: Sequence[str], strengths: float | Sequence[float]
) -> None:
    """Multiply what adapters add, one number for each; 1 where none is given. All of them become active.

    Raises UnboxError for another number of strengths than of adapters.
    """
    given = strengths if isinstance(strengths, Sequence) else (strengths,)
    numbers = checked(Several[LoraStrength], "lora_strength", given, "load")
    if numbers and len(numbers) != len(names):
        raise UnboxError(
            f"lora_strength has {len(numbers)} numbers for {len(names)} LoRAs: give one for each, the "
            "system's own or lora= (--lora) first"
        )
    if len(names) > 1 or numbers:
        pipeline.set_adapters(list(names), list(numbers or [1.0] * len(names)))


def _is_of(alpha: str, keys: Sequence[str]) -> bool:
    """Whether an alpha is of the module of one of these tensors."""
    beginning = alpha.removesuffix("alpha")
    return any(key.startswith(beginning) for key in keys)


def _read(pipeline: DiffusionPipeline, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, float] | None]:
    """Tensors by diffusers' names and their alphas, from any layout that diffusers reads."""
    try:
        state, alphas = pipeline.lora_state_dict(
            str(path.parent), weight_name=path.name, unet_config=pipeline.unet.config, local_files_only=True
        )
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        names = shapes_of(path)
        raise UnboxError(
            f"{path} is a LoRA that cannot be read as one of SDXL ({type(error).__name__}: {error}): it has "
            f"{first(names)}, and may be of another architecture"
        ) from error
    return state, alphas


def _modules(state: Mapping[str, torch.Tensor], path: Path) -> dict[str, str]:
    """Each tensor's name -> the module that it is of: `unet.mid_block.attentions.0.proj_in` say."""
    found: dict[str, str] = {}
    for network in (*_NETWORKS, ""):
        beginning = f"{network}." if network else ""
        own = {k.removeprefix(beginning): v for k, v in state.items() if k.startswith(beginning)}
        own = {key: tensor for key, tensor in own.items() if beginning + key not in found}
        try:
            if network.startswith("text"):
                converted = convert_state_dict_to_peft(convert_state_dict_to_diffusers(own)) if own else {}
            else:
                converted = convert_unet_state_dict_to_peft(own)
        except ValueError as error:
            raise UnboxError(f"{path} is a LoRA with names that are not known: {error}") from error
        for key, name in zip(own, converted, strict=True):
            found[beginning + key] = beginning + name.split(".lora")[0]
    return found


def _absent(
    pipeline: DiffusionPipeline,
    state: Mapping[str, torch.Tensor],
    modules: Mapping[str, str],
    path: Path,
) -> list[str]:
    """Modules of a LoRA that the model lacks. Raises UnboxError where none is there, or one is of another
    size."""
    absent, there = list[str](), 0
    for key, tensor in state.items():
        layer = _layer(pipeline, modules[key])
        if layer is not None:
            there += 1
            _check_size(layer, key, tensor, modules[key], path)
        elif modules[key] not in absent:
            absent.append(modules[key])
    if not there:
        raise UnboxError(
            f"nothing of {path} fits this model: it is a LoRA of another architecture, with modules like "
            f"{first(absent)}"
        )
    return absent


def _layer(pipeline: DiffusionPipeline, module: str) -> Any:
    """The layer of the pipeline that a module's name is of, or None."""
    network, _, path = module.partition(".")
    owner = getattr(pipeline, network, None) if network in _NETWORKS else None
    for each in (
        path,
        path.removeprefix("text_model."),
    ):  # in files, though not in transformers' newer encoders
        try:
            return None if owner is None else owner.get_submodule(each)
        except AttributeError:
            continue
    return None


def _check_size(layer: torch.nn.Module, key: str, tensor: torch.Tensor, module: str, path: Path) -> None:
    """Raises UnboxError where a factor does not have the layer's width."""
    weight = getattr(getattr(layer, "base_layer", layer), "weight", None)
    if not isinstance(weight, torch.Tensor) or tensor.ndim < 2 or weight.ndim < 2:
        return
    down = "lora_A" in key or ".down." in key
    has, needs = (tensor.shape[1], weight.shape[1]) if down else (tensor.shape[0], weight.shape[0])
    if has != needs:
        side = "takes" if down else "gives"
        raise UnboxError(
            f"{path} is a LoRA of another architecture: {module} {side} {has} channels there, and "
            f"{needs} in this model"
        )


def _put(
    pipeline: DiffusionPipeline, state: dict[str, torch.Tensor], alphas: dict[str, float] | None, name: str
) -> None:
    """As `pipeline.load_lora_weights` does, of tensors that were read."""
    pipeline.load_lora_into_unet(
        state, network_alphas=alphas, unet=pipeline.unet, adapter_name=name, _pipeline=pipeline
    )
    for network in ("text_encoder", "text_encoder_2"):
        encoder = getattr(pipeline, network, None)
        if encoder is not None and any(key.startswith(f"{network}.") for key in state):
            pipeline.load_lora_into_text_encoder(
                state,
                network_alphas=alphas,
                text_encoder=encoder,
                prefix=network,
                lora_scale=pipeline.lora_scale,
                adapter_name=name,
                _pipeline=pipeline,
            )
