"""Edits that read the update: chains of edits on coefficients of one dictionary."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unbox.edit_ops import OPS
from unbox.edits.layout import Maps
from unbox.edits.terms import Line, TensorDictionary, Term, coefficients, signed_value
from unbox.models.devices import to_device

#: Gives a dictionary on a device.
Place = Callable[[TensorDictionary, torch.device], TensorDictionary]


@dataclass(frozen=True)
class _Constants:
    """What a chain needs on a device, sent there once."""

    vectors: Tensor
    """(features, d)."""
    slots: Tensor
    """(n,): see `coefficients`."""
    places: tuple[Tensor, ...]
    """Of each term: the places of its features among the chain's."""
    units: tuple[Tensor, ...]
    """Of each term, (its features,)."""


class Chain:
    """The edits of features of one dictionary, or along one direction, whose coefficients are read once."""

    def __init__(self, terms: Sequence[Term], maps: Maps, place: Place) -> None:
        self.terms, self._maps, self._place = tuple(terms), maps, place
        self.dictionary = self.terms[0].dictionary
        self.features = tuple(dict.fromkeys(feature for term in terms for feature in term.features))
        self._constants: dict[torch.device, _Constants] = {}

    def delta(self, update: Tensor, step: int, branch: str) -> Tensor | None:
        """(images, y, x, d) of the update's, or None where none of the edits acts."""
        if all(signed_value(term.edit, step, branch) is None for term in self.terms):
            return None
        there = self._on(update.device)
        read = self._read(update, there)
        new = read
        for term, places, units in zip(self.terms, there.places, there.units, strict=True):
            current = new[..., places]
            after = self._act(term, read[..., places], current, units, step, branch)
            new = new if after is current else new.index_copy(-1, places, after)
        return (new - read).to(update) @ there.vectors

    def _read(self, update: Tensor, there: _Constants) -> Tensor:
        if isinstance(self.dictionary, Line):
            return Line(there.vectors[0]).coefficient(update)
        dictionary = self._place(self.dictionary, update.device)
        return coefficients(dictionary, update, there.slots, len(self.features))

    def _act(
        self, term: Term, read: Tensor, current: Tensor, units: Tensor, step: int, branch: str
    ) -> Tensor:
        """One edit on the coefficients (..., features): as they were read, and as earlier edits left them."""
        edit, value = term.edit, signed_value(term.edit, step, branch)
        if value is None:
            return current
        target = OPS[edit.op].rule(current, value, units)
        own = edit.where is not None and edit.where.own
        weights = _own(read) if own else self._maps.weights(edit, step, current)
        if edit.above is not None:
            weights = weights * (read > edit.above)
        return current + weights * (target - current)

    def _on(self, device: torch.device) -> _Constants:
        if device not in self._constants:
            count, latents = len(self.features), len(self.dictionary.W_dec)
            slots = torch.full((latents,), count)
            slots[list(self.features)] = torch.arange(count)
            vectors = Term(self.terms[0].edit, self.dictionary, self.features, ()).vectors
            places = [[self.features.index(f) for f in term.features] for term in self.terms]
            self._constants[device] = _Constants(
                to_device(vectors, device),
                to_device(slots, device),
                tuple(to_device(torch.tensor(each), device) for each in places),
                tuple(to_device(torch.tensor(term.units), device) for term in self.terms),
            )
        return self._constants[device]


def _own(read: Tensor) -> Tensor:
    """A feature's own map (images, y, x, features): positive coefficients over their peak in the image."""
    positive = read.clamp(min=0)
    peak = positive.amax((-3, -2), keepdim=True)
    return positive / torch.where(peak > 0, peak, 1)
