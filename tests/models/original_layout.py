"""Writes a diffusers SDXL pipeline as one file in the layout of Stability's own code."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def save_original(pipeline: Any, path: Path) -> Path:
    """Write `pipeline` to one `.safetensors` file and return its path."""
    tensors: Tensors = {}
    tensors |= prefixed("model.diffusion_model.", original_unet(pipeline.unet))
    tensors |= prefixed("first_stage_model.", original_vae(pipeline.vae))
    number = 0
    if pipeline.text_encoder is not None:  # the refiner has the second alone
        clip = {name.removeprefix("text_model."): t for name, t in pipeline.text_encoder.state_dict().items()}
        tensors |= prefixed("conditioner.embedders.0.transformer.text_model.", clip)
        number = 1
    tensors |= prefixed(f"conditioner.embedders.{number}.model.", original_open_clip(pipeline.text_encoder_2))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def original_unet(unet: Any) -> Tensors:
    """Input, middle and output blocks counted through, three to a level."""
    attended = {
        name.split(".")[1] for name in unet.state_dict() if re.match(r"up_blocks.\d.attentions", name)
    }

    def rename(name: str) -> str:
        for ours, theirs in _UNET_ENDS.items():
            if name.startswith(ours + "."):
                return theirs + name.removeprefix(ours)
        side, *parts = name.split(".")
        if side == "mid_block":
            kind, index, *rest = parts
            place = f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}"
        else:
            level, kind, index, *rest = parts
            first = 3 * int(level) + int(index)
            place = f"input_blocks.{first + 1}" if side == "down_blocks" else f"output_blocks.{first}"
            if kind == "downsamplers":
                return f"input_blocks.{3 * int(level) + 3}.0.op.{rest[-1]}"
            if kind == "upsamplers":
                return f"output_blocks.{3 * int(level) + 2}.{2 if level in attended else 1}.conv.{rest[-1]}"
            place += ".1" if kind == "attentions" else ".0"
        if kind == "resnets":
            rest[0] = _RESNET[rest[0]]
        return ".".join([place, *rest])

    return {rename(name): tensor for name, tensor in unet.state_dict().items()}


def original_vae(vae: Any) -> Tensors:
    """Decoder levels counted from the other end; the middle attention as 1x1 convolutions."""
    last = len(vae.config.up_block_types) - 1
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}

    def rename(name: str) -> str:
        name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{last - int(m[1])}", name)
        name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        if "attn_1" in name:
            for ours, theirs in attention.items():
                name = name.replace(f".{ours}.", f".{theirs}.")
        name = re.sub(r"\.resnets\.", ".block.", name)
        name = re.sub(r"\.(down|up)samplers\.0\.conv", r".\1sample.conv", name)
        return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")

    def reshape(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor[..., None, None] if "attn_1" in name and tensor.ndim == 2 else tensor

    renamed = {rename(name): tensor for name, tensor in vae.state_dict().items()}
    return {name: reshape(name, tensor) for name, tensor in renamed.items()}


def original_open_clip(encoder: Any) -> Tensors:
    """OpenCLIP's residual blocks with q, k and v in one matrix, and the projection transposed."""
    state = {name.removeprefix("text_model."): t for name, t in encoder.state_dict().items()}
    tensors = {
        "positional_embedding": state.pop("embeddings.position_embedding.weight"),
        "token_embedding.weight": state.pop("embeddings.token_embedding.weight"),
        "ln_final.weight": state.pop("final_layer_norm.weight"),
        "ln_final.bias": state.pop("final_layer_norm.bias"),
        "text_projection": state.pop("text_projection.weight").T,
    }
    for name, tensor in state.items():
        _, _, layer, *rest = name.split(".")
        block, inner = f"transformer.resblocks.{layer}", ".".join(rest)
        if inner.startswith("self_attn.q_proj"):
            kind = rest[-1]
            parts = [state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            tensors[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif not inner.startswith("self_attn.") or "out_proj" in inner:
            for ours, theirs in _OPEN_CLIP.items():
                inner = inner.replace(ours, theirs)
            tensors[f"{block}.{inner}"] = tensor
    return tensors
