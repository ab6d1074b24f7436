"""dictionary_learning (0.1): ae.pt, a pickled state, and config.json with the trainer's settings.

    AutoEncoderTopK           encoder.weight (n, d), encoder.bias, decoder.weight (d, n), b_dec, k, threshold
    BatchTopKSAE              the same; its codes are those over the threshold
    MatryoshkaBatchTopKSAE    W_enc (d, n), b_enc, W_dec (n, d), b_dec, k, threshold, group_sizes
    JumpReluAutoEncoder       W_enc, b_enc, W_dec, b_dec, threshold (n,); b_dec is not taken from the input
    GatedAutoEncoder          encoder.weight, r_mag, gate_bias, mag_bias, decoder.weight, decoder_bias

A gated one is a JumpReLU one in other words: its gate opens where its magnitude passes
mag_bias - exp(r_mag) gate_bias (arXiv 2404.16014, section 3.2). It is read, and not written.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from activation_store.files import write_json
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.sae.interop.common import block_of, peek, read_config
from unbox.sae.interop.pickled_tensors import floats, only, read_pickled, write_pickled
from unbox.sae.model import SAE
from unbox.sae.sae_folder import Dimension
from unbox.site import block_path
from unbox.validation import Count, Real, Several, Text, validated

CONFIG, WEIGHTS = "config.json", "ae.pt"
#: Settings of their training, which change no code of the SAE that came of it.
HARMLESS = {
    "trainer_class", "lr", "steps", "auxk_alpha", "warmup_steps", "decay_start", "threshold_beta",
    "threshold_start_step", "top_k_aux", "seed", "device", "layer", "lm_name", "wandb_name",
    "group_fractions", "group_weights", "bandwidth", "sparsity_penalty", "sparsity_warmup_steps",
    "sparsity_function", "p_start", "p_end", "anneal_start", "sparsity_queue_length", "n_sparsity_updates",
    "resample_steps", "l1_penalty",
}  # fmt: skip


@validated
class DictionaryLearningConfig:
    """What `trainer` of their config.json says of an SAE."""

    dict_class: Literal[
        "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder", "GatedAutoEncoder"
    ]
    activation_dim: Dimension
    dict_size: Dimension
    k: Dimension | None = None
    target_l0: Annotated[Real, Ge(0)] | None = None
    group_sizes: Several[Count] = ()
    submodule_name: Text | None = None


def recognises(folder: Path) -> bool:
    """True for a folder of theirs, of whatever class."""
    return (folder / WEIGHTS).is_file() and "trainer" in peek(folder, CONFIG)


def read(folder: Path) -> SAE:
    """The SAE. Other classes than those above, and tensors and settings that are not known, are refused."""
    config, state = read_config(DictionaryLearningConfig, folder / CONFIG, HARMLESS, "trainer"), None
    state = read_pickled(folder / WEIGHTS)
    n, d = config.dict_size, config.activation_dim
    weights = READERS[config.dict_class](state, n, d, folder / WEIGHTS)
    k = config.k if config.k is not None else _of_state(state, "k")
    if k is None:  # on average, where it was aimed at; 1 where nobody knows
        if config.dict_class in ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
            raise UnboxError(f"{folder / CONFIG}: trainer.k is missing")
        k = min(n, max(1, round(config.target_l0 or 1)))
    if (theirs := _of_state(state, "k")) not in (None, k):
        raise UnboxError(
            f"{folder}: k is {k} in {CONFIG} and {theirs} in {WEIGHTS}: one of them is of another SAE"
        )
    block = block_of(config.submodule_name or folder.name)
    levels = {"levels": _cumulated(config.group_sizes)} if config.group_sizes else {}
    return SAE(**weights, k=k, block=block, name=block, meta=levels)


def write(sae: SAE, folder: Path) -> None:
    """Without a threshold an AutoEncoderTopK, with one for all a BatchTopKSAE, with one for each a
    JumpReluAutoEncoder."""
    weights = {name: getattr(sae, name).float() for name in ("W_enc", "W_dec", "b_pre", "b_lat")}
    state: dict[str, Tensor]
    trainer: dict[str, JSON] = {
        "activation_dim": sae.width,
        "dict_size": sae.latents,
        "layer": None,
        "lm_name": None,
    }
    if sae.threshold is not None and sae.threshold.ndim:
        state = {
            "W_enc": weights["W_enc"].T.contiguous(),
            "b_enc": weights["b_lat"] - weights["W_enc"] @ weights["b_pre"],
            "W_dec": weights["W_dec"],
            "b_dec": weights["b_pre"],
            "threshold": sae.threshold.float(),
        }
        trainer |= {
            "dict_class": "JumpReluAutoEncoder",
            "trainer_class": "JumpReluTrainer",
            "target_l0": float(sae.k),
        }
    else:
        threshold = torch.tensor(-1.0) if sae.threshold is None else sae.threshold.float().clamp_min(0)
        state = {
            "k": torch.tensor(sae.k, dtype=torch.int),
            "threshold": threshold,
            "encoder.weight": weights["W_enc"],
            "encoder.bias": weights["b_lat"],
            "decoder.weight": weights["W_dec"].T.contiguous(),
            "b_dec": weights["b_pre"],
        }
        batch = sae.threshold is not None
        trainer |= {"dict_class": "BatchTopKSAE" if batch else "AutoEncoderTopK", "k": sae.k}
        trainer |= {"trainer_class": "BatchTopKTrainer" if batch else "TopKTrainer"}
    if sae.block:
        trainer["submodule_name"] = f"unet.{block_path(sae.block)}"
    write_json(folder / CONFIG, {"trainer": trainer})
    write_pickled(folder / WEIGHTS, state)


def _linear(state: Any, n: int, d: int, at: Path, batch: bool) -> dict[str, Any]:
    shapes = {"encoder.weight": (n, d), "encoder.bias": (n,), "decoder.weight": (d, n), "b_dec": (d,)}
    t = only(state, shapes, at, ("k", "threshold"))
    return {
        "W_enc": t["encoder.weight"], "W_dec": t["decoder.weight"].T.contiguous(), "b_pre": t["b_dec"],
        "b_lat": t["encoder.bias"], "threshold": _threshold(state, at) if batch else None,
    }  # fmt: skip


def _matryoshka(state: Any, n: int, d: int, at: Path) -> dict[str, Any]:
    shapes = {"W_enc": (d, n), "b_enc": (n,), "W_dec": (n, d), "b_dec": (d,)}
    t = only(state, shapes, at, ("k", "threshold", "group_sizes"))
    return {
        "W_enc": t["W_enc"].T.contiguous(), "W_dec": t["W_dec"], "b_pre": t["b_dec"], "b_lat": t["b_enc"],
        "threshold": _threshold(state, at),
    }  # fmt: skip


def _jump_relu(state: Any, n: int, d: int, at: Path) -> dict[str, Any]:
    shapes = {"W_enc": (d, n), "b_enc": (n,), "W_dec": (n, d), "b_dec": (d,), "threshold": (n,)}
    t = only(state, shapes, at)
    W_enc = t["W_enc"].T.contiguous()
    return {
        "W_enc": W_enc, "W_dec": t["W_dec"], "b_pre": t["b_dec"], "b_lat": t["b_enc"] + W_enc @ t["b_dec"],
        "threshold": t["threshold"],
    }  # fmt: skip


def _gated(state: Any, n: int, d: int, at: Path) -> dict[str, Any]:
    shapes = {"encoder.weight": (n, d), "decoder.weight": (d, n), "decoder_bias": (d,)}
    t = only(state, {**shapes, **dict.fromkeys(("r_mag", "gate_bias", "mag_bias"), (n,))}, at)
    scale = t["r_mag"].exp()
    return {
        "W_enc": t["encoder.weight"] * scale[:, None], "W_dec": t["decoder.weight"].T.contiguous(),
        "b_pre": t["decoder_bias"], "b_lat": t["mag_bias"],
        "threshold": t["mag_bias"] - scale * t["gate_bias"],
    }  # fmt: skip


#: Class -> (state, n, d, file) -> the weights and threshold of an SAE.
READERS: dict[str, Callable[[Any, int, int, Path], dict[str, Any]]] = {
    "AutoEncoderTopK": lambda state, n, d, at: _linear(state, n, d, at, batch=False),
    "BatchTopKSAE": lambda state, n, d, at: _linear(state, n, d, at, batch=True),
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "JumpReluAutoEncoder": _jump_relu,
    "GatedAutoEncoder": _gated,
}


def _threshold(state: Any, at: Path) -> Tensor:
    """Under 0 theirs has not been set: whatever is positive is active."""
    return floats(state, "threshold", (), at).clamp_min(0)


def _of_state(state: Any, key: str) -> int | None:
    value = state.get(key) if isinstance(state, dict) else None
    return (
        int(value)
        if isinstance(value, Tensor) and value.ndim == 0 and not value.is_floating_point()
        else None
    )


def _cumulated(sizes: tuple[int, ...]) -> list[int]:
    return torch.tensor(sizes).cumsum(0).tolist()
