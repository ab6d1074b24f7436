"""What the edits of one block do to its update, as a delta: h' + (z' - z) W_dec.

Composition is documented in `unbox.edit`, the ops' rules are in `unbox.edit_ops`; this is the order. Edits
that only add are static: their delta depends on nothing the model computes, so it is made once and a run pays
one tensor addition. The others read the update: features through one encode per SAE, whatever their number.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unbox.edit import Edit
from unbox.edit_ops import OPS
from unbox.edits.layout import Maps, sum_of_adds
from unbox.edits.terms import Term, coefficients, sae_of, signed_value, term_of
from unbox.errors import UnboxError


@dataclass
class Program:
    """The edits of one block, resolved; `delta` says what they add to a batch of updates."""

    edits: tuple[Edit, ...]
    width: int
    maps: Maps = field(default_factory=Maps, repr=False)
    _sums: dict[Hashable, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        terms = [term_of(edit) for edit in self.edits if not edit.of_update]
        moved = {_key(t, f) for t in terms if not t.static for f in t.features}
        self.whole = [edit for edit in self.edits if edit.of_update]
        self.icons = {id(edit): term_of(edit) for edit in self.whole if edit.subject != "update"}
        self.encoders = {id(edit): sae_of(edit) for edit in self.whole if OPS[edit.op].reconstructs}
        # An add to a feature that is also scaled or set must take its turn in that feature's chain.
        self.static = [t for t in terms if not any(_key(t, f) in moved for f in t.features)]
        self.chains = [t for t in terms if any(_key(t, f) in moved for f in t.features)]
        self._check_widths([*terms, *self.icons.values()])

    def _check_widths(self, terms: Sequence[Term]) -> None:
        dictionaries = [*(term.dictionary for term in terms), *self.encoders.values()]
        for width in (dictionary.W_dec.shape[-1] for dictionary in dictionaries):
            if width != self.width:
                raise UnboxError(
                    f"an edit of {self.edits[0].block} is for vectors of {width} channels; "
                    f"this model's block has {self.width}: the SAE or direction is of another model or block"
                )

    @property
    def reads(self) -> bool:
        """True when the edits need the block's update, not only its place."""
        return bool(self.whole or self.chains)

    def delta(self, output: Tensor, update: Tensor | None, step: int, branch: str) -> Tensor | None:
        """What the edits add at a step and branch: float32 that broadcasts to (images, y, x, d), or None.

        `output` (images, y, x, d) gives the grid and the device. `update`, float32 of the same shape, is what
        the block added; it may be None when `reads` is false.
        """
        parts = [self._static(output, step, branch)]
        if update is not None and self.reads:
            parts += [self._whole(update, step, branch), self._chained(update, step, branch)]
        acting = [part.reshape((1,) * (4 - part.ndim) + part.shape) for part in parts if part is not None]
        return sum(acting[1:], acting[0]) if acting else None

    def _static(self, output: Tensor, step: int, branch: str) -> Tensor | None:
        """(d,) where no add has a mask, else (y, x, d); None where none acts. Kept while steps are equal."""
        acting = [(t, value) for t in self.static if (value := signed_value(t.edit, step, branch))]
        frame = step if any(_moving(t.edit) for t, _ in acting) else None
        grid = (output.shape[-3], output.shape[-2])
        key = (tuple((id(t), value) for t, value in acting), frame, grid, output.device)
        if not acting:
            return None
        if key not in self._sums:
            if len(self._sums) >= 4:  # two branches, now and before
                self._sums.clear()
            self._sums[key] = sum_of_adds(acting, self.maps, step, grid, output.device)
        return self._sums[key]

    def _whole(self, update: Tensor, step: int, branch: str) -> Tensor | None:
        changed = update
        for edit in self.whole:
            value = edit.at(step)
            if value is None or not edit.sign(branch):
                continue
            weights = self.maps.weights(edit, step, update)[..., :1]
            target = OPS[edit.op].rule(changed, value, self._amount(edit, changed))
            changed = changed + weights * (target - changed)
        return None if changed is update else changed - update

    def _amount(self, edit: Edit, update: Tensor) -> Tensor:
        """What a value of 1 stands for: the feature or direction alone, the reconstruction, or all of it."""
        if id(edit) in self.icons:
            term = self.icons[id(edit)]
            return torch.as_tensor(term.units).to(update) @ term.vectors.to(update)
        if id(edit) in self.encoders:
            sae = self.encoders[id(edit)]
            return sae.decode(sae.encode(update.to(sae.W_dec))).to(update)
        return update

    def _chained(self, update: Tensor, step: int, branch: str) -> Tensor | None:
        total = None
        for dictionary in {id(t.dictionary): t.dictionary for t in self.chains}.values():
            terms = [t for t in self.chains if t.dictionary is dictionary]
            if all(signed_value(t.edit, step, branch) is None for t in terms):
                continue
            features = tuple(dict.fromkeys(f for t in terms for f in t.features))
            read = coefficients(dictionary, update, features)
            new = read
            for term in terms:
                slots = [features.index(f) for f in term.features]
                after = self._act(term, read[..., slots], new[..., slots], step, branch)
                new = new.index_copy(-1, torch.tensor(slots, device=new.device), after)
            vectors = Term(terms[0].edit, dictionary, features, ()).vectors.to(update)
            part = (new - read).to(update) @ vectors
            total = part if total is None else total + part
        return total

    def _act(self, term: Term, read: Tensor, current: Tensor, step: int, branch: str) -> Tensor:
        """One edit on the coefficients (..., features): as they were read, and as earlier edits left them."""
        edit, value = term.edit, signed_value(term.edit, step, branch)
        if value is None:
            return current
        units = torch.as_tensor(term.units).to(current)
        target = OPS[edit.op].rule(current, value, units)
        own = edit.where is not None and edit.where.own
        weights = _own(read) if own else self.maps.weights(edit, step, current)
        if edit.above is not None:
            weights = weights * (read > edit.above)
        return current + weights * (target - current)


def _key(term: Term, feature: int) -> tuple[int, int]:
    return id(term.dictionary), feature


def _moving(edit: Edit) -> bool:
    return edit.where is not None and len(edit.where.shape) > 2


def _own(read: Tensor) -> Tensor:
    """A feature's own map (images, y, x, features): positive coefficients over their peak in the image."""
    positive = read.clamp(min=0)
    peak = positive.amax((-3, -2), keepdim=True)
    return positive / torch.where(peak > 0, peak, 1)
