"""What the edits of one block do to its update, as a delta: h' + (z' - z) W_dec.

Composition is documented in `unbox.edit`, the ops' rules are in `unbox.edit_ops`; this is the order. Edits
that only add are static: their delta depends on nothing the model computes, so it is made once and a run pays
one tensor addition. The others read the update: features through one encode per SAE, whatever their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unbox.edit import Edit
from unbox.edit_ops import OPS
from unbox.edits.chains import Chain, Place
from unbox.edits.layout import Adds, Maps
from unbox.edits.swap import swapped
from unbox.edits.terms import Line, TensorDictionary, Term, sae_of, term_of
from unbox.errors import UnboxError
from unbox.models.devices import to_device


def _where_it_is(dictionary: TensorDictionary, device: torch.device) -> TensorDictionary:
    return dictionary


@dataclass
class Program:
    """The edits of one block, resolved; `delta` says what they add to a batch of updates."""

    edits: tuple[Edit, ...]
    width: int
    maps: Maps = field(default_factory=Maps, repr=False)
    place: Place = field(default=_where_it_is, repr=False)
    """Gives a dictionary on the device of the updates."""

    def __post_init__(self) -> None:
        terms = [term_of(edit) for edit in self.edits if not edit.of_update]
        moved = {_key(t, f) for t in terms if not t.static for f in t.features}
        self.whole = [edit for edit in self.edits if edit.of_update]
        self.icons = {id(edit): term_of(edit) for edit in self.whole if edit.subject != "update"}
        self.encoders = {
            id(edit): sae_of(edit) for edit in self.whole if OPS[edit.op].reconstructs or OPS[edit.op].swaps
        }
        # An add to a feature that is also scaled or set must take its turn in that feature's chain.
        turns = [any(_key(t, f) in moved for f in t.features) for t in terms]
        chained = [t for t, turn in zip(terms, turns, strict=True) if turn]
        self._check_widths([*terms, *self.icons.values()])
        self.adds = Adds([t for t, turn in zip(terms, turns, strict=True) if not turn], self.maps)
        self.chains = [
            Chain([t for t in chained if t.dictionary is dictionary], self.maps, self.place)
            for dictionary in {id(t.dictionary): t.dictionary for t in chained}.values()
        ]
        self._icon_vectors: dict[tuple[int, torch.device], Tensor] = {}

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

    @property
    def read_by(self) -> tuple[TensorDictionary, ...]:
        """The dictionaries that encode updates; those of which features are only added need not."""
        chained = [c.dictionary for c in self.chains if not isinstance(c.dictionary, Line)]
        return tuple({id(each): each for each in (*chained, *self.encoders.values())}.values())

    def delta(self, output: Tensor, update: Tensor | None, step: int, branch: str) -> Tensor | None:
        """What the edits add at a step and branch: float32 that broadcasts to (images, y, x, d), or None.

        `output` (images, y, x, d) gives the grid and the device. `update`, float32 of the same shape, is what
        the block added; it may be None when `reads` is false.
        """
        parts = [self.adds.delta(step, branch, (output.shape[-3], output.shape[-2]), output.device)]
        if update is not None and self.reads:
            parts += [self._whole(update, step, branch)]
            parts += [chain.delta(update, step, branch) for chain in self.chains]
        acting = [part.reshape((1,) * (4 - part.ndim) + part.shape) for part in parts if part is not None]
        return sum(acting[1:], acting[0]) if acting else None

    def _whole(self, update: Tensor, step: int, branch: str) -> Tensor | None:
        changed = update
        for edit in self.whole:
            value = edit.at(step)
            if value is None or not edit.sign(branch):
                continue
            weights = self.maps.weights(edit, step, update)[..., :1]
            if OPS[edit.op].swaps:
                sae = self.place(self.encoders[id(edit)], update.device)
                amount, fires = swapped(edit, sae, update, changed, step)
                weights = weights * fires
            else:
                amount = self._amount(edit, changed)
            target = OPS[edit.op].rule(changed, value, amount)
            changed = changed + weights * (target - changed)
        return None if changed is update else changed - update

    def _amount(self, edit: Edit, update: Tensor) -> Tensor:
        """What a value of 1 stands for: the feature or direction alone, the reconstruction, or all of it."""
        if id(edit) in self.icons:
            key = (id(edit), update.device)
            if key not in self._icon_vectors:
                term = self.icons[id(edit)]
                units = torch.tensor(term.units).to(term.vectors)
                self._icon_vectors[key] = to_device(units @ term.vectors, update.device)
            return self._icon_vectors[key].to(update)
        if id(edit) in self.encoders:
            sae = self.place(self.encoders[id(edit)], update.device)
            return sae.decode(sae.encode(update.to(sae.W_dec))).to(update)
        return update


def _key(term: Term, feature: int) -> tuple[int, int]:
    return id(term.dictionary), feature
