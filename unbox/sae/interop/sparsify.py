"""sparsify (eai-sparsify): cfg.json and sae.safetensors, activation `topk`, no transcoders."""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

from activation_store.files import write_json
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.sae.interop.common import block_of, peek, read_config
from unbox.sae.model import SAE
from unbox.sae.sae_folder import MOST, Dimension
from unbox.sae.safetensors_io import Shape, read_tensors, write_tensors
from unbox.validation import Whole, validated

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
#: What their cfg.json says beside of training, which changes no code.
HARMLESS = ("normalize_decoder", "multi_topk")


@validated
class SparsifyConfig:
    """What their cfg.json says of an SAE; only what is read exactly is taken."""

    d_in: Dimension
    k: Dimension
    num_latents: Annotated[Whole, Ge(0), Le(MOST)] = 0
    """0: by the expansion factor."""
    expansion_factor: Dimension = 32
    activation: Literal["topk"] = "topk"
    transcode: Literal[False] = False
    skip_connection: Literal[False] = False


def recognises(folder: Path) -> bool:
    """True for a folder of theirs."""
    return (folder / WEIGHTS).is_file() and "d_in" in peek(folder, CONFIG)


def read(folder: Path) -> SAE:
    """The SAE. Group-max activations, skip connections and transcoders are refused."""
    config = read_config(SparsifyConfig, folder / CONFIG, HARMLESS)
    d = config.d_in
    n = config.num_latents or d * config.expansion_factor
    shapes: dict[str, Shape | None] = {
        "encoder.weight": (n, d),
        "encoder.bias": (n,),
        "W_dec": (n, d),
        "b_dec": (d,),
    }
    tensors = {name: tensor.float() for name, tensor in read_tensors(folder / WEIGHTS, shapes).items()}
    block = block_of(folder.name)
    return SAE(
        W_enc=tensors["encoder.weight"],
        W_dec=tensors["W_dec"],
        b_pre=tensors["b_dec"],
        b_lat=tensors["encoder.bias"],
        k=config.k,
        block=block,
        name=block,
    )


def write(sae: SAE, folder: Path) -> None:
    """cfg.json and sae.safetensors."""
    if sae.threshold is not None:
        raise UnboxError("the sparsify layout has no threshold; export sae.with_threshold(None) instead")
    config: dict[str, JSON] = {
        "activation": "topk",
        "expansion_factor": max(1, sae.latents // sae.width),
        "normalize_decoder": True,
        "num_latents": sae.latents,
        "k": sae.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": sae.width,
    }
    write_json(folder / CONFIG, config)
    tensors = {"encoder.weight": sae.W_enc, "encoder.bias": sae.b_lat, "W_dec": sae.W_dec, "b_dec": sae.b_pre}
    write_tensors(folder / WEIGHTS, {name: tensor.float() for name, tensor in tensors.items()})
