"""SDXL's and its refiner's real architecture with random weights, as a diffusers folder.

For trying hardware and pipelines before anything is downloaded; the images are noise. The models are laid out
on torch's meta device and their tensors drawn and written one after the other: memory holds one tensor at a
time, whatever the model's size.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import __version__ as diffusers_version
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from tqdm.auto import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from activation_store.files import publish_folder, write_json
from unbox.errors import UnboxError
from unbox.models.system_table import SYSTEMS

SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": diffusers_version,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
VOCABULARY = 49408
_SAFETENSORS_NAME = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}


def sdxl_unet() -> UNet2DConditionModel:
    """SDXL base's UNet, 2,567,463,684 parameters."""
    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def refiner_unet() -> UNet2DConditionModel:
    """The refiner's UNet, 2,259,526,660 parameters."""
    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(384, 768, 1536, 1536),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=4,
        attention_head_dim=(6, 12, 24, 24),
        cross_attention_dim=1280,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2560,
    )


def sdxl_vae() -> AutoencoderKL:
    """SDXL's VAE, 83,653,863 parameters."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=1024,
        scaling_factor=0.13025,
        force_upcast=True,
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
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=projection,
        hidden_act=activation,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=1,
    )


@dataclass(frozen=True)
class Architecture:
    """A pipeline's class, its system's name, and how to lay out each of its parts."""

    pipeline: str
    system: str
    parts: Mapping[str, Callable[[], Any]]
    options: Mapping[str, Any]


ARCHITECTURES = {
    "base": Architecture(
        "StableDiffusionXLPipeline",
        "sdxl-turbo",
        {"unet": sdxl_unet, "vae": sdxl_vae, "text_encoder": clip_l, "text_encoder_2": clip_big_g},
        {"force_zeros_for_empty_prompt": True},
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
    if architecture not in ARCHITECTURES or dtype not in _SAFETENSORS_NAME:
        raise UnboxError(
            f"no architecture '{architecture}' in {dtype}; there are {', '.join(ARCHITECTURES)} in "
            f"{', '.join(str(kind) for kind in _SAFETENSORS_NAME)}"
        )
    plan = ARCHITECTURES[architecture]
    folder = Path(folder)
    with publish_folder(folder) as new:
        modules = {name: _on_meta(build) for name, build in plan.parts.items()}
        total = sum(parameters(module) for module in modules.values())
        with tqdm(total=total, disable=not progress, desc="weights", unit="", unit_scale=True) as bar:
            for name, module in modules.items():
                _write_part(new / name, module, dtype, seed, bar.update)
        for name in ("tokenizer", "tokenizer_2"):
            if name.replace("tokenizer", "text_encoder") in modules:
                _write_tokenizer(new / name, pad="<|endoftext|>" if name == "tokenizer" else "!")
        write_json(_made(new / "scheduler") / "scheduler_config.json", SCHEDULER)
        write_json(new / "model_index.json", _index(plan, modules))
        system = replace(
            SYSTEMS[plan.system],
            name=f"sdxl-random-{architecture}",
            title=f"SDXL {architecture}'s real architecture with random weights: images are noise",
            base=None,
            licence="",
            verified="random weights",
        )
        system.save(new)
    return folder


def parameters(module: torch.nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def _on_meta(build: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return build()


def _write_part(
    folder: Path, module: Any, dtype: torch.dtype, seed: int, advance: Callable[[int], Any]
) -> None:
    """The part's configuration and one safetensors file, under the names that its library looks for."""
    diffusion = not hasattr(module.config, "to_json_file")
    _made(folder)
    if diffusion:
        module.save_config(folder)
    else:
        module.config.architectures = [type(module).__name__]
        module.config.save_pretrained(folder)
    name = "diffusion_pytorch_model.safetensors" if diffusion else "model.safetensors"
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
    tensor_seed = int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:4], "big")
    scale = (3 * math.prod(shape[1:])) ** -0.5
    noise = torch.randn(math.prod(shape), generator=torch.Generator().manual_seed(tensor_seed))
    return noise.mul_(scale).to(dtype)


def _write_tokenizer(folder: Path, pad: str) -> None:
    """A byte-level CLIP tokenizer of single characters, with CLIP's vocabulary size and special ids."""
    from transformers import CLIPTokenizer

    letters = list(_byte_letters())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [f"<|unused{i}|>" for i in range(VOCABULARY - 2 - len(tokens))]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    CLIPTokenizer(vocabulary, [], pad_token=pad, model_max_length=77).save_pretrained(folder)


def _byte_letters() -> Iterator[str]:
    """The 256 characters that byte-level BPE writes bytes as: printable ones as themselves."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(256, 512))
    for byte in [*sorted(printable), *(b for b in range(256) if b not in printable)]:
        yield chr(byte if byte in printable else next(hidden))


def _index(plan: Architecture, modules: Mapping[str, Any]) -> dict[str, Any]:
    """`model_index.json`."""
    names = {name: type(module) for name, module in modules.items()}
    entries: dict[str, Any] = {
        name: [None, None]
        for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "image_encoder")
    }
    entries |= {
        name: ["diffusers" if kind.__module__.startswith("diffusers") else "transformers", kind.__name__]
        for name, kind in names.items()
    }
    for name in names:
        if name.startswith("text_encoder"):
            entries[name.replace("text_encoder", "tokenizer")] = ["transformers", "CLIPTokenizer"]
    return {
        "_class_name": plan.pipeline,
        "_diffusers_version": diffusers_version,
        **plan.options,
        "feature_extractor": [None, None],
        "scheduler": ["diffusers", SCHEDULER["_class_name"]],
        **entries,
    }


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
