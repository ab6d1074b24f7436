"""SDXL's and its refiner's real architecture with random weights, as a diffusers folder.

For trying hardware and pipelines before anything is downloaded; the images are noise. The models are laid out
on torch's meta device and their tensors drawn and written one after the other: memory holds one tensor at a
time, whatever the model's size. What is not given below is the library's own default.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from tqdm.auto import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from activation_store.files import publish_folder
from unbox.errors import UnboxError
from unbox.models.bounded_vae import bound_vae
from unbox.models.devices import find_device
from unbox.models.load import set_scheduler
from unbox.models.model import Model
from unbox.models.seeds import generator, image_seed
from unbox.models.system_table import SYSTEMS
from unbox.models.systems import System

_SAFETENSORS_NAME = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
_UNET = {
    "sample_size": 128,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
}
_PLAIN_DOWN, _PLAIN_UP, _DOWN, _UP = "DownBlock2D", "UpBlock2D", "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"


def sdxl_unet() -> UNet2DConditionModel:
    """SDXL base's UNet, 2,567,463,684 parameters."""
    return UNet2DConditionModel(
        block_out_channels=(320, 640, 1280),
        down_block_types=(_PLAIN_DOWN, _DOWN, _DOWN),
        up_block_types=(_UP, _UP, _PLAIN_UP),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        projection_class_embeddings_input_dim=2816,
        **_UNET,
    )


def refiner_unet() -> UNet2DConditionModel:
    """The refiner's UNet, 2,259,526,660 parameters."""
    return UNet2DConditionModel(
        block_out_channels=(384, 768, 1536, 1536),
        down_block_types=(_PLAIN_DOWN, _DOWN, _DOWN, _PLAIN_DOWN),
        up_block_types=(_PLAIN_UP, _UP, _UP, _PLAIN_UP),
        transformer_layers_per_block=4,
        attention_head_dim=(6, 12, 24, 24),
        cross_attention_dim=1280,
        projection_class_embeddings_input_dim=2560,
        **_UNET,
    )


def sdxl_vae() -> AutoencoderKL:
    """SDXL's VAE, 83,653,863 parameters."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=1024,
        scaling_factor=0.13025,
    )


def clip_l() -> CLIPTextModel:
    """The first text encoder, CLIP ViT-L/14, 123,060,480 parameters."""
    return CLIPTextModel(_text_config(768, 3072, 12, 12, 768, "quick_gelu"))


def clip_big_g() -> CLIPTextModelWithProjection:
    """The second text encoder, OpenCLIP ViT-bigG/14 with its projection, 694,659,840 parameters."""
    return CLIPTextModelWithProjection(_text_config(1280, 5120, 32, 20, 1280, "gelu"))


def _text_config(
    width: int, inner: int, layers: int, heads: int, projection: int, activation: str
) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=projection,
        hidden_act=activation,
    )


@dataclass(frozen=True)
class Architecture:
    """A pipeline's class, its system's name, and how to lay out each of its parts."""

    pipeline: str
    system: str
    parts: Mapping[str, Callable[[], torch.nn.Module]]
    options: Mapping[str, Any]


ARCHITECTURES = {
    "base": Architecture(
        "StableDiffusionXLPipeline",
        "sdxl-turbo",
        {"unet": sdxl_unet, "vae": sdxl_vae, "text_encoder": clip_l, "text_encoder_2": clip_big_g},
        {},
    ),
    "refiner": Architecture(
        "StableDiffusionXLImg2ImgPipeline",
        "sdxl-refiner",
        {"unet": refiner_unet, "vae": sdxl_vae, "text_encoder_2": clip_big_g},
        {"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True},
    ),
}


def write_random(
    folder: str | Path,
    architecture: str = "base",
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write an architecture ("base" or "refiner") with random weights as a diffusers folder; return it.

    About 7 GB in bfloat16. The folder's own `system.json` samples base as sdxl-turbo (one step) and the
    refiner as sdxl-refiner. Raises UnboxError for an unknown architecture or dtype, StoreError for a folder
    that exists.
    """
    plan = _architecture(architecture, dtype)
    with publish_folder(folder) as new:
        with torch.device("meta"):
            laid_out: dict[str, torch.nn.Module] = {name: build() for name, build in plan.parts.items()}
        pipeline = _pipeline(plan, laid_out)
        pipeline.save_config(new)
        parts = {name: part for name, part in pipeline.components.items() if part is not None}
        modules: dict[str, Any] = {k: v for k, v in parts.items() if isinstance(v, torch.nn.Module)}
        for name in parts.keys() - modules.keys():
            parts[name].save_pretrained(new / name)
        total = sum(module.num_parameters() for module in modules.values())
        with tqdm(total=total, disable=not progress, desc="weights", unit="", unit_scale=True) as bar:
            for name, module in modules.items():
                _write_part(new / name, module, dtype, seed, bar.update)
        _system(plan, architecture).save(new)
    return Path(folder)


def random_model(
    architecture: str = "base",
    dtype: torch.dtype = torch.float16,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Model:
    """The same in memory, without a folder: drawn on the device by torch's own rules, in seconds on a GPU."""
    plan = _architecture(architecture, dtype)
    target, before = find_device(device), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng([target] if target.type == "cuda" else []), target:
            torch.manual_seed(seed)
            parts = {name: build().eval() for name, build in plan.parts.items()}
    finally:
        torch.set_default_dtype(before)
    pipeline, system = _pipeline(plan, parts), _system(plan, architecture)
    set_scheduler(pipeline, system)
    bound_vae(pipeline)
    return Model(pipeline, system, f"random {architecture}")


def _architecture(name: str, dtype: torch.dtype) -> Architecture:
    """The row of `ARCHITECTURES`; raises UnboxError for an unknown one, or an unknown dtype."""
    if name not in ARCHITECTURES or dtype not in _SAFETENSORS_NAME:
        raise UnboxError(
            f"no architecture '{name}' in {dtype}; there are {', '.join(ARCHITECTURES)} in "
            f"{', '.join(str(kind) for kind in _SAFETENSORS_NAME)}"
        )
    return ARCHITECTURES[name]


def _system(plan: Architecture, architecture: str) -> System:
    """The row that a random model samples by."""
    return replace(
        SYSTEMS[plan.system],
        name=f"sdxl-random-{architecture}",
        title=f"SDXL {architecture}'s real architecture with random weights: images are noise",
        base=None,
        licence="",
        verified="random weights",
    )


def _pipeline(plan: Architecture, laid_out: Mapping[str, torch.nn.Module]) -> diffusers.DiffusionPipeline:
    """The pipeline of an architecture around its models."""
    parts: dict[str, Any] = dict(laid_out)
    for suffix, pad in (("", "<|endoftext|>"), ("_2", "!")):
        encoder = parts.setdefault(f"text_encoder{suffix}", None)
        parts[f"tokenizer{suffix}"] = None if encoder is None else _tokenizer(pad, encoder.config.vocab_size)
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )
    pipeline = getattr(diffusers, plan.pipeline)
    return pipeline(**parts, scheduler=scheduler, add_watermarker=False, **plan.options)


def _write_part(
    folder: Path, module: Any, dtype: torch.dtype, seed: int, advance: Callable[[int], bool | None]
) -> None:
    """The part's configuration and one safetensors file, under the names that its library looks for."""
    folder.mkdir()
    if isinstance(module, diffusers.ModelMixin):
        module.save_config(folder)
        name = "diffusion_pytorch_model.safetensors"
    else:
        module.config.architectures = [type(module).__name__]
        module.config.save_pretrained(folder)
        name = "model.safetensors"
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    with open(folder / name, "wb") as file:
        file.write(_header(shapes, dtype))
        for key, shape in shapes.items():
            tensor = _random(key, shape, dtype, seed)
            file.write(tensor.view(torch.uint8).numpy().data)
            advance(tensor.numel())


def _header(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> bytes:
    """The safetensors header: its length (8 bytes), then JSON padded with spaces to a multiple of 8."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        table[key] = {"dtype": _SAFETENSORS_NAME[dtype], "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _random(key: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """A flat tensor as torch would begin training it: norms 1, biases 0, others N(0, 1 / (3 fan_in))."""
    if len(shape) == 1:
        return torch.full(shape, 1.0 if key.endswith("weight") else 0.0, dtype=dtype)
    noise = torch.randn(math.prod(shape), generator=generator(image_seed(seed, key)))
    return noise.mul_((3 * math.prod(shape[1:])) ** -0.5).to(dtype)


def _tokenizer(pad: str, size: int) -> CLIPTokenizer:
    """A byte-level CLIP tokenizer of single characters, with CLIP's vocabulary size and special ids."""
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [f"<|unused{i}|>" for i in range(size - 2 - len(tokens))]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocabulary, [], pad_token=pad, model_max_length=77)
