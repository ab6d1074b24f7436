"""Edits resolved against their dictionaries: units, directions, and the coefficients of named features."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self, cast

import torch
from torch import Tensor

from unbox import memory_limit
from unbox.dictionary import Dictionary
from unbox.edit import Edit
from unbox.edit_ops import OPS
from unbox.errors import UnboxError
from unbox.models.devices import to_device
from unbox.sae.codes import Codes


class TensorDictionary(Dictionary, Protocol):
    """A dictionary whose arrays are tensors: every SAE and `Basis`."""

    @property
    def W_dec(self) -> Tensor: ...

    def encode(self, update: Tensor, /) -> Codes:
        """(..., d) -> codes of k features each."""
        ...

    def decode(self, codes: Codes, /) -> Tensor: ...

    def to(self, device: torch.device | None = None) -> Self: ...


@dataclass(frozen=True)
class Line:
    """One direction as a dictionary of a single feature; its coefficient is the projection <x, d> / |d|^2."""

    vector: Tensor

    @property
    def W_dec(self) -> Tensor:
        return self.vector[None]

    def to(self, device: torch.device) -> "Line":
        """The direction on a device."""
        return Line(to_device(self.vector, device))

    def coefficient(self, update: Tensor) -> Tensor:
        """(..., d) -> (..., 1)."""
        vector = self.vector.to(update)
        return ((update @ vector) / vector.square().sum())[..., None]


def coefficients(dictionary: TensorDictionary, update: Tensor, slots: Tensor, count: int) -> Tensor:
    """Codes of some features only: (..., d) -> (..., count), zero where a feature is not active.

    `slots` (n,) int64: the place of each of the dictionary's features among them, `count` for all others. A
    full encode decides which are active; no (..., n) tensor is made beyond the encoder's own.
    """
    memory_limit.require(8 * update[..., 0].numel() * (count + 1), f"{count:,} features' activations at once")
    codes = dictionary.encode(update.to(dictionary.W_dec))
    found = codes.values.new_zeros((*codes.values.shape[:-1], count + 1))
    return found.scatter_add(-1, slots[codes.indices.long()], codes.values)[..., :-1].to(update)


@dataclass(frozen=True)
class Term:
    """An edit of features or of a direction, with what it needs from its dictionary at hand."""

    edit: Edit
    dictionary: TensorDictionary | Line
    features: tuple[int, ...]
    units: tuple[float, ...]

    @property
    def static(self) -> bool:
        """True when what the edit adds depends on nothing that the model computes."""
        return OPS[self.edit.op].adds and not (self.edit.where is not None and self.edit.where.own)

    @cached_property
    def vectors(self) -> Tensor:
        """(features, d) decoder directions, float32."""
        index = torch.as_tensor(self.features, device=self.dictionary.W_dec.device)
        return self.dictionary.W_dec.detach()[index].float()


def term_of(edit: Edit) -> Term:
    """Resolve an edit's features and units. Raises UnboxError where it names what its SAE does not have."""
    if edit.subject == "direction":
        vector = torch.tensor(edit.direction)
        deviation = edit.unit == "deviation"
        unit = float(sae_of(edit).update_std) / float(vector.norm()) if deviation else 1.0
        return Term(edit, Line(vector), (0,), (unit,))
    sae = sae_of(edit)
    latents = len(sae.W_dec)
    missing = [f for f in edit.feature if f >= latents]
    if missing:
        raise UnboxError(
            f"{edit.block} has no feature {missing[0]}: its SAE has {latents}, from 0 to {latents - 1}"
        )
    return Term(edit, sae, edit.feature, tuple(_unit(edit, sae, f) for f in edit.feature))


def sae_of(edit: Edit) -> TensorDictionary:
    """The SAE that an edit carries. Raises UnboxError where it carries none."""
    if edit.sae is None:
        what = f"feature {edit.feature}" if edit.feature else f"'{edit.op}' edit with unit '{edit.unit}'"
        raise UnboxError(
            f"the {what} of {edit.block} carries no SAE; attach them with unbox.edits.bind(edits, saes)"
        )
    return cast(TensorDictionary, edit.sae)


def _unit(edit: Edit, sae: Dictionary, feature: int) -> float:
    """Coefficient that a value of 1 stands for."""
    if edit.unit == "absolute":
        return 1.0
    if edit.unit == "deviation":
        return float(sae.update_std) / float(sae.W_dec[feature].norm())
    mean = 0.0 if sae.stats is None else float(sae.stats.mean_active[feature])
    if not mean > 0:
        why = "was never active in training" if sae.stats is not None else "is of an SAE without statistics"
        raise UnboxError(
            f"{edit.block}/{feature} {why}, so it has no mean active value; "
            "give the value in unit 'deviation' or 'absolute'"
        )
    return mean


def signed_value(edit: Edit, step: int, branch: str) -> float | None:
    """Signed value, or None where the edit does not act at this step on this branch."""
    value, sign = edit.at(step), edit.sign(branch)
    return None if value is None or not sign else value * sign
