"""overcomplete (0.3): TopKSAE, BatchTopKSAE and JumpSAE with a linear encoder.

The package saves nothing itself. A folder here is its `state_dict()`, and in config.json what its classes are
made with, which the state does not say:

    sae.pth        torch.save(sae.state_dict(), ...): encoder.final_block.0.{weight (n, d), bias} (or encoder.
                   {weight, bias} of `untied`, or none of `tied`), dictionary.{_weights (n, d), multiplier},
                   and thresholds (n,), whose exponentials count, of a JumpSAE
    config.json    {"library": "overcomplete", "sae_class": "TopKSAE", "input_shape": d, "nb_concepts": n,
                   "top_k": k, "normalization": "l2", "running_threshold": t, "decoder_bias": [...]}

Their decoder has no bias. `decoder_bias` is ours, written where b_pre is not 0: their reconstruction is ours
without it, their codes are ours.
"""

import warnings
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from activation_store.files import write_json
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.sae.interop.common import peek, read_config
from unbox.sae.interop.pickled_tensors import only, read_pickled, write_pickled
from unbox.sae.model import SAE
from unbox.sae.sae_folder import Dimension
from unbox.validation import Name, Real, Several, validated

CONFIG, WEIGHTS = "config.json", "sae.pth"


@validated
class OvercompleteConfig:
    """config.json: how their SAE is made."""

    library: Literal["overcomplete"]
    sae_class: Literal["TopKSAE", "BatchTopKSAE", "JumpSAE"]
    input_shape: Dimension
    nb_concepts: Dimension
    top_k: Dimension | None = None
    """A BatchTopKSAE's is that of a whole batch."""
    active_per_row: Dimension | None = None
    """On average, where a threshold decides; None: nobody knows, and k is said to be 1."""
    normalization: Literal["l2", "max_l2", "l1", "max_l1", "identity"] = "l2"
    running_threshold: Annotated[Real, Ge(0)] | None = None
    decoder_bias: Several[Real] = ()
    block: Name | Literal[""] = ""


def recognises(folder: Path) -> bool:
    """True for a folder with their state and what it was made with."""
    return (folder / WEIGHTS).is_file() and peek(folder, CONFIG).get("library") == "overcomplete"


def read(folder: Path) -> SAE:
    """The SAE as it is in their eval mode. Other encoders, and what is not known, are refused."""
    config = read_config(OvercompleteConfig, folder / CONFIG)
    state, at = read_pickled(folder / WEIGHTS), folder / WEIGHTS
    n, d, jumps = config.nb_concepts, config.input_shape, config.sae_class == "JumpSAE"
    names = set(state) if isinstance(state, dict) else set()
    weight, bias = next(
        (pair for pair in ENCODERS if pair[0] in names),
        (None, "encoder.bias" if "encoder.bias" in names else None),
    )
    shapes: dict[str, tuple[int, ...]] = {"dictionary._weights": (n, d), "dictionary.multiplier": ()}
    if weight is not None:
        shapes[weight] = (n, d)
    if bias is not None and bias in names:
        shapes[bias] = (n,)
    tensors = only(state, shapes | ({"thresholds": (n,)} if jumps else {}), at)
    W_dec = (
        _normalized(tensors["dictionary._weights"], config.normalization)
        * tensors["dictionary.multiplier"].exp()
    )
    W_enc = tensors[weight] if weight else W_dec.clone()
    b_pre = torch.tensor(config.decoder_bias) if config.decoder_bias else torch.zeros(d)
    if len(b_pre) != d:
        raise UnboxError(f"{folder / CONFIG}: decoder_bias has {len(b_pre)} numbers, input_shape is {d}")
    b_lat = (tensors[bias] if bias in tensors else torch.zeros(n)) + W_enc @ b_pre
    if config.sae_class == "TopKSAE":
        if config.top_k is None:
            raise UnboxError(f"{folder / CONFIG}: top_k is missing, which a TopKSAE's codes need")
        return SAE(W_enc, W_dec, b_pre, b_lat, min(config.top_k, n), config.block, config.block)
    if jumps:
        threshold = tensors["thresholds"].exp()
    elif config.running_threshold is None:
        raise UnboxError(
            f"{folder / CONFIG}: running_threshold is missing, which a BatchTopKSAE's codes need"
        )
    else:
        threshold = torch.tensor(config.running_threshold)
    # Theirs is active from the threshold on, ours over it: over the number before.
    before = torch.nextafter(threshold.float(), torch.tensor(-torch.inf))
    k = min(n, config.active_per_row or 1)
    return SAE(W_enc, W_dec, b_pre, b_lat, k, config.block, config.block, threshold=before.clamp_min(0))


def write(sae: SAE, folder: Path) -> None:
    """A TopKSAE, or with a threshold for all a BatchTopKSAE, with one for each a JumpSAE (to rounding: their
    thresholds are kept as logarithms)."""
    one = torch.ones(sae.latents)
    unit = torch.allclose(sae.W_dec.float().norm(dim=1), one, rtol=0, atol=1e-6)
    state: dict[str, Tensor] = {
        "encoder.final_block.0.weight": sae.W_enc.float(),
        "encoder.final_block.0.bias": (sae.b_lat - sae.W_enc @ sae.b_pre).float(),
        "dictionary._weights": sae.W_dec.float(),
        "dictionary.multiplier": torch.tensor(0.0),
    }
    config: dict[str, JSON] = {
        "library": "overcomplete",
        "input_shape": sae.width,
        "nb_concepts": sae.latents,
        "normalization": "l2" if unit else "identity",
        "block": sae.block,
    }
    if sae.threshold is None:
        config |= {"sae_class": "TopKSAE", "top_k": sae.k}
    else:
        over = torch.nextafter(sae.threshold.float().clamp_min(0), torch.tensor(torch.inf))
        config |= {"active_per_row": sae.k, "sae_class": "JumpSAE" if over.ndim else "BatchTopKSAE"}
        if over.ndim:
            state["thresholds"] = over.clamp_min(torch.finfo(torch.float32).tiny).log()
        else:
            config["running_threshold"] = float(over)
    if bool(sae.b_pre.any()):
        config["decoder_bias"] = sae.b_pre.float().tolist()
        warnings.warn(
            "overcomplete's decoders have no bias: codes are the same, their reconstructions are without "
            f"b_pre (`decoder_bias` in {CONFIG})",
            stacklevel=2,
        )
    write_json(folder / CONFIG, config)
    write_pickled(folder / WEIGHTS, state)


#: Names of the weight and bias of their encoders that are linear: `linear`, and `untied`.
ENCODERS = (
    ("encoder.final_block.0.weight", "encoder.final_block.0.bias"),
    ("encoder.weight", "encoder.bias"),
)


def _normalized(weights: Tensor, how: str) -> Tensor:
    """(n, d) as their dictionary has it after `eval()`."""
    norm = weights.norm(p=1 if how.endswith("l1") else 2, dim=1, keepdim=True)
    if how == "identity":
        return weights
    return weights / (norm.amax() if how.startswith("max") else norm + 1e-8)
