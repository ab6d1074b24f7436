"""SAELens (sae-lens 6): cfg.json and sae_weights.safetensors, architectures `topk` and `jumprelu`.

Their batchtopk and matryoshka SAEs are saved for inference as jumprelu, and come in as such.
"""

from pathlib import Path
from typing import Literal

import torch

from activation_store.files import write_json
from unbox.errors import FieldError
from unbox.json_types import JSON
from unbox.sae.interop.common import block_of, peek, read_config
from unbox.sae.model import SAE
from unbox.sae.sae_folder import Dimension
from unbox.sae.safetensors_io import Shape, read_tensors, write_tensors
from unbox.site import block_path
from unbox.validation import JSONObject, validated

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
#: What their cfg.json says beside, of this version and the one before, that changes no code.
HARMLESS = {
    "dtype", "device", "sae_lens_version", "sae_lens_training_version", "model_name", "hook_name",
    "hook_layer", "hook_head_index", "prepend_bos", "dataset_path", "dataset_trust_remote_code",
    "context_size", "model_from_pretrained_kwargs", "neuronpedia_id", "seqpos_slice", "decoder_init_norm",
}  # fmt: skip


@validated
class SAELensConfig:
    """What their cfg.json says of an SAE; only what is read exactly is taken."""

    architecture: Literal["topk", "jumprelu"]
    d_sae: Dimension
    d_in: Dimension
    k: Dimension | None = None
    normalize_activations: Literal["none"] = "none"
    reshape_activations: Literal["none"] = "none"
    rescale_acts_by_decoder_norm: bool | None = False
    apply_b_dec_to_input: bool = True
    finetuning_scaling_factor: Literal[False] = False
    metadata: JSONObject | None = None


def recognises(folder: Path) -> bool:
    """True for a folder of theirs, of whatever architecture."""
    return (folder / WEIGHTS).is_file() and "architecture" in peek(folder, CONFIG)


def read(folder: Path) -> SAE:
    """The SAE. Options that change its codes are folded into the weights, exactly, or refused."""
    config = read_config(SAELensConfig, folder / CONFIG, HARMLESS)
    n, d, jumps = config.d_sae, config.d_in, config.architecture == "jumprelu"
    shapes: dict[str, Shape | None] = {"W_enc": (d, n), "W_dec": (n, d), "b_enc": (n,), "b_dec": (d,)}
    if jumps:
        shapes["threshold"] = (n,)
    tensors = {name: tensor.float() for name, tensor in read_tensors(folder / WEIGHTS, shapes).items()}
    W_enc, W_dec, b_lat = tensors["W_enc"].T.contiguous(), tensors["W_dec"], tensors["b_enc"]
    if config.rescale_acts_by_decoder_norm:
        norm = W_dec.norm(dim=1)
        W_enc, b_lat = W_enc * norm[:, None], b_lat * norm
        W_dec = W_dec / torch.where(norm > 0, norm, 1)[:, None]  # a latent that adds nothing is never active
    if not config.apply_b_dec_to_input:
        b_lat = b_lat + W_enc @ tensors["b_dec"]
    metadata = config.metadata or {}
    hook, average = metadata.get("hook_name"), metadata.get("k")
    block = block_of(hook) if isinstance(hook, str) else ""
    if jumps:  # active latents on average, where our own export noted it; 1 where nobody knows
        k = average if type(average) is int and 1 <= average <= n else 1
    elif config.k is None:
        raise FieldError(str(folder / CONFIG), "k", None, "is missing")
    else:
        k = config.k
    return SAE(
        W_enc=W_enc,
        W_dec=W_dec,
        b_pre=tensors["b_dec"],
        b_lat=b_lat,
        k=k,
        block=block,
        name=block,
        threshold=tensors["threshold"] if jumps else None,
    )


def write(sae: SAE, folder: Path) -> None:
    """A `topk` SAE of theirs, or, with a threshold, a `jumprelu` one."""
    config: dict[str, JSON] = {
        "architecture": "topk" if sae.threshold is None else "jumprelu",
        "d_in": sae.width,
        "d_sae": sae.latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"k": sae.k, **({"hook_name": f"unet.{block_path(sae.block)}"} if sae.block else {})},
    }
    tensors = {
        "W_enc": sae.W_enc.T.contiguous().float(),
        "W_dec": sae.W_dec.float(),
        "b_enc": sae.b_lat.float(),
        "b_dec": sae.b_pre.float(),
    }
    if sae.threshold is None:
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    else:
        tensors["threshold"] = sae.threshold.float().expand(sae.latents)
    write_json(folder / CONFIG, config)
    write_tensors(folder / WEIGHTS, tensors)
