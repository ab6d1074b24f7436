"""What the edits of one block do to its update, as a delta: h' + (z' - z) W_dec.

Composition is documented in `unbox.edit`; this is its arithmetic. Edits that only add are static: their
delta depends on nothing the model computes, so it is made once and a run pays one tensor addition. The others
read the update: features through one encode per SAE, whatever their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unbox.edit import Edit
from unbox.errors import UnboxError
from unbox.mask import Mask


@dataclass(frozen=True)
class Line:
    """One direction as a dictionary of a single feature; its coefficient is the projection <x, d> / |d|^2."""

    vector: Tensor

    @property
    def W_dec(self) -> Tensor:
        return self.vector[None]

    def coefficients(self, update: Tensor, features: Sequence[int]) -> Tensor:
        vector = self.vector.to(update)
        return ((update @ vector) / vector.square().sum())[..., None]


def coefficients(dictionary: Any, update: Tensor, features: Sequence[int]) -> Tensor:
    """Codes of the named features only: (..., d) -> (..., len(features)), zero where a feature is not active.

    A full encode decides which latents are among the k; no (..., n) tensor is made beyond the encoder's own.
    """
    if isinstance(dictionary, Line):
        return dictionary.coefficients(update, features)
    codes = dictionary.encode(update.to(dictionary.W_dec))
    slots = torch.full((len(dictionary.W_dec),), len(features), device=codes.indices.device)
    slots[torch.as_tensor(features, device=slots.device)] = torch.arange(len(features), device=slots.device)
    found = codes.values.new_zeros((*codes.values.shape[:-1], len(features) + 1))
    return found.scatter_add(-1, slots[codes.indices.long()], codes.values)[..., :-1].to(update)


class Maps:
    """Masks placed on grids, each once: a mask may be far larger than the grid."""

    def __init__(self) -> None:
        self._placed: dict[tuple[Mask, tuple[int, int]], np.ndarray] = {}

    def at(self, edit: Edit, step: int, grid: tuple[int, int]) -> np.ndarray:
        """(1 or features, y, x) weights; masks with a step axis keep their last map beyond its end."""
        assert edit.where is not None
        key = (edit.where, grid)
        if key not in self._placed:
            self._placed[key] = edit.where.on(*grid)
        placed = self._placed[key]
        if placed.ndim > 2:
            placed = placed[..., min(step, placed.shape[-3] - 1), :, :]
        return placed if placed.ndim == 3 else placed[None]

    def weights(self, edit: Edit, step: int, like: Tensor) -> Tensor:
        """The same as (y, x, 1 or features) on the grid and device of `like` (..., y, x, channels)."""
        if edit.where is None:
            return torch.ones(1, 1, 1).to(like)
        maps = self.at(edit, step, (like.shape[-3], like.shape[-2]))
        return torch.from_numpy(maps).to(like).permute(1, 2, 0)


@dataclass(frozen=True)
class Term:
    """An edit of features or of a direction, with what it needs from its dictionary at hand."""

    edit: Edit
    dictionary: Any
    features: tuple[int, ...]
    units: tuple[float, ...]

    @property
    def static(self) -> bool:
        """True when what the edit adds depends on nothing that the model computes."""
        return self.edit.op == "add" and not (self.edit.where is not None and self.edit.where.own)

    @cached_property
    def vectors(self) -> Tensor:
        """(features, d) decoder directions, float32."""
        index = torch.as_tensor(self.features, device=self.dictionary.W_dec.device)
        return self.dictionary.W_dec.detach()[index].float()


def term_of(edit: Edit) -> Term:
    """Resolve an edit's features and units. Raises UnboxError where it names what its SAE does not have."""
    if edit.subject == "direction":
        vector = torch.tensor(edit.direction)
        unit = 1.0
        if edit.unit == "deviation":
            unit = float(_need_sae(edit).update_std) / float(vector.norm())
        return Term(edit, Line(vector), (0,), (unit,))
    sae = _need_sae(edit)
    latents = len(sae.W_dec)
    missing = [f for f in edit.feature if f >= latents]
    if missing:
        raise UnboxError(
            f"{edit.block} has no feature {missing[0]}: its SAE has {latents}, from 0 to {latents - 1}"
        )
    return Term(edit, sae, edit.feature, tuple(_unit(edit, sae, f) for f in edit.feature))


def _need_sae(edit: Edit) -> Any:
    if edit.sae is None:
        what = f"feature {edit.feature}" if edit.feature else f"'{edit.op}' edit with unit '{edit.unit}'"
        raise UnboxError(
            f"the {what} of {edit.block} carries no SAE; attach them with unbox.edits.bind(edits, saes)"
        )
    return edit.sae


def _unit(edit: Edit, sae: Any, feature: int) -> float:
    """Coefficient that a value of 1 stands for."""
    if edit.op == "scale" or edit.unit == "absolute":
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


@dataclass
class Program:
    """The edits of one block, resolved; `delta` says what they add to a batch of updates."""

    edits: tuple[Edit, ...]
    width: int
    maps: Maps = field(default_factory=Maps, repr=False)
    _kept: dict[Any, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        coefficient = [e for e in self.edits if e.subject != "update" and e.op != "replace"]
        terms = [term_of(edit) for edit in coefficient]
        moved = {_key(t, f) for t in terms if not t.static for f in t.features}
        self.whole = [e for e in self.edits if e.subject == "update" or e.op == "replace"]
        self.icons = {id(e): term_of(e) for e in self.whole if e.op == "replace"}
        # An add to a feature that is also scaled or set must take its turn in that feature's chain.
        self.static = [t for t in terms if not any(_key(t, f) in moved for f in t.features)]
        self.chains = [t for t in terms if any(_key(t, f) in moved for f in t.features)]
        for edit in self.whole:
            if edit.op == "reconstruct":
                _need_sae(edit)
        self._check_widths([*terms, *self.icons.values()])

    def _check_widths(self, terms: Sequence[Term]) -> None:
        saes = [e.sae for e in self.whole if e.op == "reconstruct"]
        for width in [t.dictionary.W_dec.shape[-1] for t in terms] + [s.W_dec.shape[-1] for s in saes]:
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
        there = [part.reshape((1,) * (4 - part.ndim) + part.shape) for part in parts if part is not None]
        return sum(there[1:], there[0]) if there else None

    def _static(self, output: Tensor, step: int, branch: str) -> Tensor | None:
        """(d,) where no add has a mask, else (y, x, d); None where none acts. Kept while steps are equal."""
        acting = [(t, value) for t in self.static if (value := signed_value(t.edit, step, branch))]
        frame = step if any(_moving(t.edit) for t, _ in acting) else None
        grid = (output.shape[-3], output.shape[-2])
        key = (tuple((id(t), value) for t, value in acting), frame, grid, output.device)
        if not acting:
            return None
        if key not in self._kept:
            if len(self._kept) >= 4:  # two branches, now and before
                self._kept.clear()
            self._kept[key] = _laid_out(_field(acting, self.maps, step, grid), output.device)
        return self._kept[key]

    def _whole(self, update: Tensor, step: int, branch: str) -> Tensor | None:
        changed = update
        for edit in self.whole:
            value = edit.at(step)
            if value is None or not edit.sign(branch):
                continue
            weights = self.maps.weights(edit, step, update)[..., :1]
            changed = changed + weights * (self._target(edit, changed, value) - changed)
        return None if changed is update else changed - update

    def _target(self, edit: Edit, update: Tensor, value: float) -> Tensor:
        if edit.op == "replace":
            term = self.icons[id(edit)]
            return value * torch.as_tensor(term.units).to(update) @ term.vectors.to(update)
        if edit.op == "reconstruct":
            rebuilt = edit.sae.decode(edit.sae.encode(update.to(edit.sae.W_dec)))
            return torch.lerp(update, rebuilt.to(update), value)
        return update * value

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
        target = {"add": current + value * units, "scale": current * value, "set": value * units}[edit.op]
        own = edit.where is not None and edit.where.own
        weights = _own(read) if own else self.maps.weights(edit, step, current)
        if edit.above is not None:
            weights = weights * (read > edit.above)
        return current + weights * (target - current)


def _key(term: Term, feature: int) -> tuple[int, int]:
    return id(term.dictionary), feature


def signed_value(edit: Edit, step: int, branch: str) -> float | None:
    """Signed value, or None where the edit does not act at this step on this branch."""
    value, sign = edit.at(step), edit.sign(branch)
    return None if value is None or not sign else value * sign


def _moving(edit: Edit) -> bool:
    return edit.where is not None and len(edit.where.shape) > 2


def _own(read: Tensor) -> Tensor:
    """A feature's own map (images, y, x, features): positive coefficients over their peak in the image."""
    positive = read.clamp(min=0)
    peak = positive.amax((-3, -2), keepdim=True)
    return positive / torch.where(peak > 0, peak, 1)


def _field(acting: Sequence[tuple[Term, float]], maps: Maps, step: int, grid: tuple[int, int]) -> Tensor:
    """Sum of value * unit * map * direction over adds. Equal addends are summed first, so that v - v is 0."""
    amounts: dict[Any, float] = {}
    shared: dict[Any, tuple[Term, int]] = {}
    for term, value in acting:
        for slot, feature in enumerate(term.features):
            line = term.edit.direction or (id(term.dictionary), feature)
            mapped = slot if term.edit.where is not None and len(term.edit.where.shape) == 4 else None
            key = (line, term.edit.where, mapped)
            amounts[key] = amounts.get(key, 0.0) + value * term.units[slot]
            shared[key] = (term, slot)
    keys = [key for key in amounts if amounts[key]]
    plain = [key for key in keys if key[1] is None]
    placed = [key for key in keys if key[1] is not None]
    width = acting[0][0].vectors.shape[-1]
    flat = torch.zeros(width) + _stack(plain, amounts, shared).sum(0)
    if not placed:
        return flat
    weights = np.stack([maps.at(shared[k][0].edit, step, grid)[k[2] or 0] for k in placed])
    return flat + torch.einsum("fyx,fd->yxd", torch.from_numpy(weights), _stack(placed, amounts, shared))


def _laid_out(delta: Tensor, device: torch.device) -> Tensor:
    """The same values on the device; maps (y, x, d) with channels first in memory, like outputs of blocks."""
    moved = delta.to(device)
    return moved if moved.ndim == 1 else moved.permute(2, 0, 1).contiguous().permute(1, 2, 0)


def _stack(keys: Sequence[Any], amounts: dict[Any, float], shared: dict[Any, tuple[Term, int]]) -> Tensor:
    """(keys, d) amount * direction of each."""
    if not keys:
        return torch.zeros(0, 1)
    return torch.stack([amounts[k] * shared[k][0].vectors[shared[k][1]].cpu() for k in keys])
