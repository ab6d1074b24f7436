"""Edits as values: what to change at a block while an image is sampled. Frozen, validated, JSON both ways.

An edit names a block, a **subject** (features of an SAE, a direction, or the whole update), an op, a value,
and where, when and on which branch it acts. `Feature`, `Direction` and `Block` make edits; `+` composes them.

Order of composition, per block (edits of different blocks are independent):

1. edits of the whole update (`scale`, `reconstruct`) and `replace`, in the order written, each on what the
   one before left;
2. edits of features and directions. Their coefficients are read once, from the update as the block computed
   it; edits of one feature act on its coefficient in the order written; what they changed is added, times
   the feature's decoder direction.

So edits of different features or directions commute, and `add`s commute with each other; `scale` and `set`
of the same feature do not commute.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from unbox.blocks import block_path
from unbox.errors import UnboxError
from unbox.mask import Mask

VERSION = 1
BRANCHES = ("both", "cond", "uncond", "contrast")

#: Units of a value: 1; the feature's mean active value; the update's root mean square deviation, as a norm.
UNITS = ("absolute", "mean", "deviation")

#: Ops of each kind of subject.
OPS = {
    "feature": ("add", "scale", "set", "replace"),
    "direction": ("add", "scale", "set", "replace"),
    "update": ("scale", "reconstruct"),
}

Value = float | tuple[float, ...]


@dataclass(frozen=True)
class Edit:
    """One change at one block. Raises UnboxError when its parts do not fit together."""

    block: str
    """Short name of the block, e.g. `up.0.1`."""
    op: str
    """`add`, `scale` by, `set` to, `replace` the update by the value; `reconstruct` the update by the SAE."""
    value: Value = 1.0
    """A number, or one per step (steps beyond its end keep the last)."""
    feature: tuple[int, ...] = ()
    """Indices of the features edited, if features are."""
    direction: tuple[float, ...] = ()
    """The vector edited along, if a direction is."""
    unit: str = "absolute"
    """What a value of 1 means for `add`, `set`, `replace`: one of `UNITS`."""
    where: Mask | None = None
    """Weights over positions, between no change (0) and the whole change (1); None is everywhere."""
    steps: tuple[int, int] | None = None
    """Half-open range of the scheduler's indices; None is all steps."""
    branch: str = "both"
    """`both`, `cond`, `uncond`; `contrast` adds on cond and subtracts on uncond."""
    above: float | None = None
    """Act only where the coefficient exceeds this (absolute units)."""
    source: str | None = None
    """Name of the SAE that the features belong to, where a block has several."""
    sae: Any = field(default=None, compare=False, repr=False)
    """The SAE (or other dictionary) itself, in memory only; `unbox.edits.bind` attaches it."""

    def __post_init__(self) -> None:
        block_path(self.block)
        _set(self, "value", _number_or_curve(self.value))
        _set(self, "feature", _indices(self.feature))
        _set(self, "direction", tuple(_number(v) for v in self.direction))
        _set(self, "where", Mask.of(self.where))
        _set(self, "steps", _step_range(self.steps))
        _set(self, "above", None if self.above is None else _number(self.above))
        if self.feature and self.direction:
            raise UnboxError("an edit is of features or of a direction, not of both")
        _one_of("op", self.op, OPS[self.subject], f" for {self.subject} edits")
        _one_of("unit", self.unit, UNITS)
        _one_of("branch", self.branch, BRANCHES)
        self._check_fit()

    def _check_fit(self) -> None:
        """Refuse options that would do nothing with this op."""
        misfits = [
            (self.branch == "contrast" and self.op != "add", "branch 'contrast' is for add edits"),
            (self.unit == "mean" and self.subject != "feature", "unit 'mean' is for edits of features"),
            (self.unit != "absolute" and self.op in ("scale", "reconstruct"), f"{self.op} has no unit"),
            (
                self.above is not None and (self.op not in ("scale", "set") or self.subject == "update"),
                "'above' is for scale and set edits of features and directions",
            ),
            (
                self.where is not None
                and self.where.own
                and (self.subject == "update" or self.op == "replace"),
                "the mask 'own' is for add, scale and set edits of features and directions",
            ),
            (bool(self.direction) and not any(self.direction), "the direction is zero"),
            (
                self.where is not None
                and len(self.where.shape) == 4
                and self.where.shape[0] != len(self.feature),
                f"the mask has {self.where.shape[:1]} maps for {len(self.feature)} features"
                if self.where
                else "",
            ),
        ]
        for misfit, why in misfits:
            if misfit:
                raise UnboxError(why)

    @property
    def subject(self) -> str:
        """`feature`, `direction` or `update` (the whole of it): a key of `OPS`."""
        return "feature" if self.feature else "direction" if self.direction else "update"

    @property
    def identity(self) -> bool:
        """True when the edit changes nothing by its own words: nothing is installed for it."""
        neutral = {"add": 0.0, "scale": 1.0}.get(self.op)
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        nowhere = self.where is not None and self.where.empty
        never = self.steps is not None and self.steps[0] == self.steps[1]
        return nowhere or never or all(value == neutral for value in values)

    def at(self, step: int) -> float | None:
        """The value at a step of the scheduler, or None where the edit does not act."""
        if self.steps is not None and not self.steps[0] <= step < self.steps[1]:
            return None
        if isinstance(self.value, tuple):
            return self.value[min(step, len(self.value) - 1)]
        return self.value

    def sign(self, branch: str) -> float:
        """+1, 0 or -1: how the edit acts on a branch, `cond` or `uncond`."""
        if self.branch == "contrast":
            return 1.0 if branch == "cond" else -1.0
        return float(self.branch in ("both", branch))

    def __add__(self, other: "Edit | Edits | None") -> "Edits":
        return Edits.of(self) + other

    def to_json(self) -> dict[str, Any]:
        """JSON object with what differs from the defaults, and always the value. Never any weights."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "sae"}
        kept = {
            f.name: values[f.name]
            for f in fields(self)
            if f.name in ("block", "op", "value") or (f.name in values and values[f.name] != f.default)
        }
        if self.where is not None:
            kept["where"] = self.where.to_json()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}

    @classmethod
    def from_json(cls, value: Any) -> "Edit":
        """Inverse of `to_json`; raises UnboxError for an object that is not an edit."""
        names = {f.name for f in fields(cls)} - {"sae"}
        if not isinstance(value, Mapping) or not {"block", "op"} <= set(value) <= names:
            unknown = sorted(set(value) - names) if isinstance(value, Mapping) else value
            raise UnboxError(
                f"not an edit: {unknown}; an edit is an object with block, op and any of {sorted(names)}"
            )
        try:
            return cls(**{**value, "where": Mask.from_json(value.get("where"))})
        except TypeError as error:
            raise UnboxError(f"not an edit: {error}") from error


@dataclass(frozen=True)
class Edits:
    """Several edits, in order. `+` appends; `Edits()` is no edit."""

    edits: tuple[Edit, ...] = ()

    @classmethod
    def of(cls, value: "Edit | Edits | None") -> "Edits":
        """None, one edit or several, as Edits. Raises UnboxError for anything else."""
        if isinstance(value, cls):
            return value
        if value is None or isinstance(value, Edit):
            return cls(() if value is None else (value,))
        raise UnboxError(
            f"{type(value).__name__} is not an edit; edits are made by sae.feature(i), e.g. .scale(3)"
        )

    def __add__(self, other: "Edit | Edits | None") -> "Edits":
        return Edits(self.edits + Edits.of(other).edits)

    def __radd__(self, other: "Edit | int | None") -> "Edits":
        return self if other == 0 else Edits.of(other) + self  # type: ignore[arg-type]  # sum() begins with 0

    def __iter__(self) -> Iterator[Edit]:
        return iter(self.edits)

    def __len__(self) -> int:
        return len(self.edits)

    def __getitem__(self, index: int) -> Edit:
        return self.edits[index]

    @property
    def identity(self) -> bool:
        """True when no edit changes anything by its own words."""
        return all(edit.identity for edit in self.edits)

    @property
    def blocks(self) -> tuple[str, ...]:
        """Short names of the blocks edited, each once, in order of first mention."""
        return tuple(dict.fromkeys(edit.block for edit in self.edits))

    def to_json(self) -> dict[str, Any]:
        """`{"version": 1, "edits": [...]}`."""
        return {"version": VERSION, "edits": [edit.to_json() for edit in self.edits]}

    @classmethod
    def from_json(cls, value: Any) -> "Edits":
        """Inverse of `to_json`; also takes one edit's object or a list of them. Raises UnboxError."""
        if isinstance(value, Mapping) and "edits" in value:
            version = value.get("version", VERSION)
            if version != VERSION:
                raise UnboxError(
                    f"edits of version {version} cannot be read; this unbox reads version {VERSION}"
                )
            value = value["edits"]
        rows = [value] if isinstance(value, Mapping) else value
        if not isinstance(rows, Sequence) or isinstance(rows, str):
            raise UnboxError(f"{type(value).__name__} is not a list of edits")
        return cls(tuple(Edit.from_json(row) for row in rows))


class _Subject:
    """The five ways to edit a feature or a direction; each takes `where`, `steps`, `branch` (see `Edit`)."""

    unit: ClassVar[str]

    def _edit(self, op: str, value: Any, **options: Any) -> Edit:
        raise NotImplementedError

    def add(self, value: Any, unit: str | None = None, **options: Any) -> Edit:
        """Add value units, whatever is there: costs a rank-one update, never an encode."""
        return self._edit("add", value, unit=unit or self.unit, **options)

    def scale(self, value: Any, **options: Any) -> Edit:
        """Multiply the coefficient; 1 changes nothing. `above`: only where it exceeds this."""
        return self._edit("scale", value, **options)

    def ablate(self, **options: Any) -> Edit:
        """Take it out: scale by 0."""
        return self._edit("scale", 0.0, **options)

    def set(self, value: Any, unit: str | None = None, **options: Any) -> Edit:
        """Set the coefficient to value units."""
        return self._edit("set", value, unit=unit or self.unit, **options)

    def replace(self, value: Any, unit: str | None = None, **options: Any) -> Edit:
        """Replace the block's update by it alone, without the SAE's bias: the feature's icon."""
        return self._edit("replace", value, unit=unit or self.unit, **options)


@dataclass(frozen=True)
class Feature(_Subject):
    """One or several features of an SAE, ready to be edited. Values are in mean active values by default."""

    block: str
    index: int | tuple[int, ...]
    sae: Any = field(default=None, compare=False, repr=False)
    source: str | None = None
    unit: ClassVar[str] = "mean"

    @property
    def name(self) -> str:
        """`up.0.1/4977`."""
        return f"{self.block}/{','.join(map(str, _indices(self.index)))}"

    def _edit(self, op: str, value: Any, **options: Any) -> Edit:
        feature = _indices(self.index)
        return Edit(self.block, op, value, feature=feature, sae=self.sae, source=self.source, **options)


@dataclass(frozen=True)
class Direction(_Subject):
    """Any vector of the update's space: a steering vector, a neuron, a principal component."""

    block: str
    vector: Any
    sae: Any = field(default=None, compare=False, repr=False)
    unit: ClassVar[str] = "absolute"

    def _edit(self, op: str, value: Any, **options: Any) -> Edit:
        return Edit(self.block, op, value, direction=tuple(_plain(self.vector)), sae=self.sae, **options)


@dataclass(frozen=True)
class Block:
    """The whole update of a block."""

    block: str

    def scale(self, value: Any, **options: Any) -> Edit:
        """Multiply the block's update; 0 removes what the block adds."""
        return Edit(self.block, "scale", value, **options)

    def ablate(self, **options: Any) -> Edit:
        """Remove what the block adds."""
        return self.scale(0.0, **options)

    def reconstruct(self, sae: Any = None, **options: Any) -> Edit:
        """Substitute the SAE's reconstruction (pre-bias included, error dropped) for the update."""
        return Edit(self.block, "reconstruct", 1.0, sae=sae, **options)


def with_sae(edit: Edit, sae: Any) -> Edit:
    """The same edit, carrying its SAE."""
    return replace(edit, sae=sae)


def _plain(value: Any) -> Any:
    """Python numbers and lists instead of those of numpy and torch."""
    return value.tolist() if hasattr(value, "tolist") else value


def _set(edit: Edit, name: str, value: Any) -> None:
    object.__setattr__(edit, name, value)


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise UnboxError(f"{value!r} is not a number") from error
    if not math.isfinite(number):
        raise UnboxError(f"{number} is not a finite number")
    return number


def _number_or_curve(value: Any) -> Value:
    value = _plain(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            raise UnboxError("a curve of values needs at least one, for step 0")
        return tuple(_number(v) for v in value)
    return _number(value)


def _indices(value: Any) -> tuple[int, ...]:
    value = _plain(value)
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    try:
        indices = tuple(int(v) for v in values)
        wrong = any(i < 0 or i != v for i, v in zip(indices, values, strict=True))
    except (TypeError, ValueError):
        wrong, indices = True, ()
    if wrong or len(set(indices)) != len(indices):
        raise UnboxError(f"{value!r} is not a feature's index or several different ones")
    return indices


def _step_range(steps: Any) -> tuple[int, int] | None:
    if steps is None:
        return None
    if isinstance(steps, int):
        steps = (steps, steps + 1)
    if isinstance(steps, range):
        steps = (steps.start, max(steps.start, steps.stop)) if steps.step == 1 else ()
    try:
        start, stop = (int(v) for v in steps)
    except (TypeError, ValueError) as error:
        raise UnboxError("steps are a range without stride, or (first, one past the last)") from error
    if not 0 <= start <= stop:
        raise UnboxError(f"steps {start}..{stop} are not a range from 0 upwards")
    return start, stop


def _one_of(what: str, value: str, known: Sequence[str], where: str = "") -> None:
    if value not in known:
        raise UnboxError(f"{what} '{value}' does not exist{where}; there are {', '.join(known)}")
