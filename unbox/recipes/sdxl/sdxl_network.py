"""The UNet as it is trained: with a LoRA or whole, its noise schedule, and what is written of it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from activation_store.files import publish_folder
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.models.model import Model
from unbox.models.systems import System
from unbox.recipes.sdxl.sdxl_settings import NoiseSettings, SdxlSettings, TrainingSettings
from unbox.sae.safetensors_io import disk_refusals, write_tensors
from unbox.training.noise import Kind, Noise, zero_terminal_snr

#: Name of the adapter in training.
ADAPTER = "default"
TARGETS = {
    "attention": ["to_q", "to_k", "to_v", "to_out.0"],
    "transformer": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"],
}


def prepared(unet: UNet2DConditionModel, settings: SdxlSettings) -> UNet2DConditionModel:
    """The UNet ready to be trained, in place: what learns in float32, the rest frozen and, under bf16, in
    bfloat16; the LoRA's first weights by the seed."""
    half = settings.mixed_precision == "bf16"
    unet.requires_grad_(settings.full).train()
    for p in unet.parameters():
        p.data = p.data.to(torch.bfloat16 if half and not settings.full else torch.float32)
    if not settings.full:
        with torch.random.fork_rng([]):
            torch.manual_seed(settings.seed % 2**32)
            unet.add_adapter(
                LoraConfig(
                    r=settings.lora_rank,
                    lora_alpha=alpha_of(settings),
                    init_lora_weights="gaussian",
                    target_modules=TARGETS[settings.lora_targets],
                ),
                ADAPTER,
            )
        cast_training_params(unet, torch.float32)
    if settings.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return unet


def alpha_of(settings: TrainingSettings) -> int:
    """What a LoRA's product is multiplied by, times its rank."""
    return settings.lora_rank if settings.lora_alpha is None else settings.lora_alpha


def prediction_of(model: Model, settings: NoiseSettings) -> Kind:
    """What the UNet is to predict. Raises UnboxError where the model or the settings leave no way."""
    kind: Kind = settings.prediction or model.pipeline.scheduler.config.get("prediction_type", "epsilon")
    if settings.zero_terminal_snr and kind != "v_prediction":
        raise UnboxError(
            f"--zero-terminal-snr: at pure noise a UNet that predicts {kind} says nothing of the picture; "
            "train it whole to v (--full --prediction v_prediction), or leave the option out"
        )
    return kind


def noise_of(model: Model, settings: NoiseSettings, device: torch.device) -> Noise:
    """The model's own noise schedule with what the settings change in it, on a device. Raises UnboxError for
    a model without betas."""
    plain = model_noise(model, device)
    return Noise(
        zero_terminal_snr(plain.abar) if settings.zero_terminal_snr else plain.abar,
        prediction_of(model, settings),
        "one" if settings.snr_gamma is None else "min-snr",
        settings.snr_gamma or 5.0,
        settings.snr_floor,
        settings.noise_offset,
    )


def model_noise(model: Model, device: torch.device) -> Noise:
    """The noise schedule that a model ships, and what it predicts, on a device. Raises UnboxError for a model
    without betas."""
    config = model.pipeline.scheduler.config
    if "beta_start" not in config and not config.get("trained_betas"):
        raise UnboxError(
            f"{model.source}: its scheduler ({config.get('_class_name')}) has no betas to train by"
        )
    abar = DDPMScheduler.from_config(config, prediction_type="epsilon").alphas_cumprod.double()
    return Noise(abar.to(device), config.get("prediction_type", "epsilon"))


def write_lora(
    unet: UNet2DConditionModel, folder: Path, settings: TrainingSettings, row: System | None = None
) -> Path:
    """Write the LoRA as diffusers' `load_lora_weights` (and so `unbox generate --lora`) reads it: its layers
    are named, and what it is multiplied by, alpha / rank, is in its second factors, as if alpha were rank.
    `row`: how the base is sampled with it, where that is not as before (for `--system`)."""
    rank, scale = settings.lora_rank, alpha_of(settings) / settings.lora_rank
    layers = {
        f"unet.{name}": tensor * scale if ".lora_B." in name else tensor
        for name, tensor in get_peft_model_state_dict(unet, adapter_name=ADAPTER).items()
    }
    told: dict[str, JSON] = {
        "unet.r": rank,
        "unet.lora_alpha": rank,
        "unet.target_modules": TARGETS[settings.lora_targets],
    }
    with publish_folder(folder, replace=True) as new:
        write_tensors(new / LORA_WEIGHT_NAME_SAFE, layers, {LORA_ADAPTER_METADATA_KEY: json.dumps(told)})
        if row is not None:
            row.save(new)
    return folder


def trained_row(model: Model, settings: SdxlSettings, name: str) -> System:
    """How a UNet that was trained whole is sampled."""
    zero: dict[str, bool | str] = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    changes = zero if settings.zero_terminal_snr else {}
    return replace(
        model.system,
        name=name,
        title=f"{model.system.title}, trained on",
        base=None,
        parts=(),
        prediction=prediction_of(model, settings),
        scheduler_config={**model.system.scheduler_config, **changes},
        verified="trained by `unbox recipe sdxl`",
    )


def write_model(
    model: Model, weights: Mapping[str, Tensor], folder: Path, row: System, dtype: torch.dtype
) -> Path:
    """Write the whole pipeline with these weights of its UNet as a diffusers folder, in `dtype`, with the row
    that it is sampled by."""
    pipeline = model.pipeline
    unet = UNet2DConditionModel.from_config(pipeline.unet.config).to(dtype)
    unet.load_state_dict(dict(weights))
    changes = {"prediction_type": row.prediction, **row.scheduler_config}
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **changes)
    with publish_folder(folder, replace=True) as new, disk_refusals():
        parts = {**pipeline.components, "unet": unet, "scheduler": scheduler}
        type(pipeline)(**parts, add_watermarker=False).save_pretrained(new, safe_serialization=True)
        row.save(new)
    return folder
