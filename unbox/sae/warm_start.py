"""Training that begins from an SAE that is there, in place of random directions."""

import os
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unbox.errors import UnboxError
from unbox.sae.model import SAE, load_saes
from unbox.sae.plan import Spec
from unbox.validation import FilePath, checked

#: SAEs to begin from: one, several by name, or a folder of them.
InitFrom = SAE | Mapping[str, SAE] | str | os.PathLike
#: What is said where an encoder is to stay and there is none.
NO_ENCODER = "freeze_encoder trains the decoder of an SAE that is there: say which, init_from (--init-from)"
#: How far a decoder row may be from length 1 before it is said that it is made so.
UNIT = 1e-4


def initial_saes(asked: InitFrom, names: Sequence[str], specs: Sequence[Spec]) -> dict[str, SAE]:
    """The SAE that each of a run begins from, by the run's names.

    It is of the same block (or says none) and has as many latents; of several, the one of the same name, else
    of the same k. Raises UnboxError, naming those that are there, for none and for several.
    """
    if isinstance(asked, SAE):
        there = {asked.name or asked.block or "the SAE": asked}
    elif isinstance(asked, Mapping):
        there = dict(asked)
        if other := [name for name, sae in there.items() if not isinstance(sae, SAE)]:
            raise UnboxError(f"init_from = {other[0]!r}: should be of SAEs, or one, or their folder")
    else:
        there = load_saes(checked(FilePath, "init_from", asked, "training"))
    return {name: _initial(name, spec, there) for name, spec in zip(names, specs, strict=True)}


def _initial(name: str, spec: Spec, there: Mapping[str, SAE]) -> SAE:
    fits = {
        key: sae
        for key, sae in there.items()
        if sae.latents == spec.latents and (sae.block == spec.block or "" in (sae.block, spec.block))
    }
    for narrower in ({k: s for k, s in fits.items() if name in (k, s.name)}, _of_k(fits, spec.k)):
        if len(fits) > 1 and narrower:
            fits = narrower
    if len(fits) == 1:
        return next(iter(fits.values()))
    told = ", ".join(
        f"{key} ({sae.block or 'no block'}, {sae.latents:,}, k {sae.k})" for key, sae in there.items()
    )
    which = "several SAEs" if fits else "no SAE"
    raise UnboxError(
        f"init_from: {name} would begin from {which} of {spec.block or 'no block'} with "
        f"{spec.latents:,} latents; there is {told or 'none'}"
    )


def _of_k(saes: Mapping[str, SAE], k: int) -> dict[str, SAE]:
    return {key: sae for key, sae in saes.items() if sae.k == k}


def scaled_weights(sae: SAE, width: int, scale: float) -> dict[str, Tensor]:
    """An SAE's weights for rows that are multiplied by `scale`, its decoder's rows unit vectors; its
    thresholds, if it has any, as `threshold` (n,).

    Rows of another length are divided by it, the encoder multiplied: reconstructions stay, and other latents
    may be the largest of a row, which a warning says. Raises UnboxError for another width.
    """
    if sae.width != width:
        raise UnboxError(f"{sae.name or 'the SAE to begin from'} has width {sae.width}, the rows {width}")
    norms = sae.W_dec.detach().float().norm(dim=1)
    if bool(((norms - 1).abs() > UNIT).any()):
        warnings.warn(
            f"decoder rows of {sae.name or 'the SAE to begin from'} are not unit vectors, as training keeps "
            "them: they are made so, and other latents may be the largest of a row",
            stacklevel=2,
        )
    safe = torch.where(norms > 0, norms, 1.0)
    threshold = {} if sae.threshold is None else {"threshold": (sae.threshold * safe * scale).float()}
    return {
        **threshold,
        "W_enc": sae.W_enc.detach().float() * safe[:, None],
        "W_dec": sae.W_dec.detach().float() / safe[:, None],
        "b_pre": sae.b_pre.detach().float() * scale,
        "b_lat": sae.b_lat.detach().float() * safe * scale,
    }


def frozen_weights(sae: SAE, spec: Spec, width: int) -> dict[str, Tensor]:
    """An SAE's weights to train the decoder alone: all as they are, the decoder's rows unit vectors.

    Raises UnboxError for another width or k, for a variant whose codes are not the SAE's, and where the
    decoder's rows are no unit vectors: an encoder that stays cannot take their lengths.
    """
    name = sae.name or "the SAE to begin from"
    if sae.width != width:
        raise UnboxError(f"{name} has width {sae.width}, the rows {width}")
    if sae.k != spec.k:
        raise UnboxError(f"freeze_encoder: {name} has k {sae.k} and stays so; {spec.k} was asked for")
    if sae.threshold is not None and spec.variant == "multik":
        raise UnboxError(f"freeze_encoder: multik orders the k largest, and {name} has a threshold")
    norms = sae.W_dec.detach().float().norm(dim=1, keepdim=True)
    if bool(((norms - 1).abs() > UNIT).any()):
        raise UnboxError(
            f"freeze_encoder: decoder rows of {name} are not unit vectors, as training keeps them, and an "
            "encoder that stays cannot take their lengths; leave freeze_encoder out"
        )
    found = {key: getattr(sae, key).detach().float() for key in ("W_enc", "W_dec", "b_pre", "b_lat")}
    return {**found, "W_dec": found["W_dec"] / norms}
