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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypedDict, Unpack

from numpy.typing import ArrayLike

from unbox.dictionary import Dictionary
from unbox.edit_ops import OPS, ops_of
from unbox.edit_values import Steps, Value, indices, number, number_or_curve, step_range, unpacked
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.mask import Mask, MaskLike
from unbox.site import block_path

VERSION = 1
BRANCHES = ("both", "cond", "uncond", "contrast")

#: Units of a value: 1; the feature's mean active value; the update's root mean square deviation, as a norm.
UNITS = ("absolute", "mean", "deviation")


@dataclass(frozen=True)
class Edit:
    """One change at one block. Raises UnboxError when its parts do not fit together."""

    block: str
    """Short name of the block, e.g. `up.0.1`."""
    op: str
    """`add`, `scale` by, `set` to, `replace` the update by the value; `reconstruct` the update by the SAE.
    `unbox.edit_ops` has a row for each."""
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
    sae: Dictionary | None = field(default=None, compare=False, repr=False)
    """The SAE (or other dictionary) itself, in memory only; `unbox.edits.bind` attaches it."""

    def __post_init__(self) -> None:
        block_path(self.block)
        checked = {
            "value": number_or_curve(self.value),
            "feature": indices(self.feature),
            "direction": tuple(number(v) for v in self.direction),
            "where": Mask.of(self.where),
            "steps": step_range(self.steps),
            "above": None if self.above is None else number(self.above),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.feature and self.direction:
            raise UnboxError("an edit is of features or of a direction, not of both")
        _one_of("op", self.op, ops_of(self.subject), f" for {self.subject} edits")
        _one_of("unit", self.unit, UNITS)
        _one_of("branch", self.branch, BRANCHES)
        self._check_fit()

    def _check_fit(self) -> None:
        """Refuse options that would do nothing with this op."""
        op, of_update = OPS[self.op], self.of_update
        shape = () if self.where is None else self.where.shape
        misfits = [
            (self.branch == "contrast" and not op.adds, "branch 'contrast' is for add edits"),
            (self.unit == "mean" and self.subject != "feature", "unit 'mean' is for edits of features"),
            (self.unit != "absolute" and not op.has_unit, f"{self.op} has no unit"),
            (
                self.above is not None and (not op.has_threshold or of_update),
                "'above' is for scale and set edits of features and directions",
            ),
            (
                self.where is not None and self.where.own and of_update,
                "the mask 'own' is for add, scale and set edits of features and directions",
            ),
            (bool(self.direction) and not any(self.direction), "the direction is zero"),
            (
                len(shape) == 4 and shape[0] != len(self.feature),
                f"the mask has {shape[:1]} maps for {len(self.feature)} features",
            ),
        ]
        for misfit, why in misfits:
            if misfit:
                raise UnboxError(why)

    @property
    def subject(self) -> str:
        """`feature`, `direction` or `update` (the whole of it): one of an op's `subjects`."""
        return "feature" if self.feature else "direction" if self.direction else "update"

    @property
    def summary(self) -> str:
        """The edit in a few words: `up.0.1/17 add 3 mean`."""
        features = ",".join(map(str, self.feature))
        subject = f"{self.source or self.block}/{features}" if features else self.block
        value = self.value[0] if isinstance(self.value, tuple) else self.value
        unit = f" {self.unit}" if self.op in ("add", "set", "replace") and self.feature else ""
        return f"{subject} {self.op} {value:g}{unit}"

    @property
    def of_update(self) -> bool:
        """True when the edit changes the update as a whole, and not a coefficient in it."""
        return self.subject == "update" or OPS[self.op].of_update

    @property
    def identity(self) -> bool:
        """True when the edit changes nothing by its own words: nothing is installed for it."""
        neutral = OPS[self.op].neutral
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

    def to_json(self) -> dict[str, JSON]:
        """JSON object with what differs from the defaults, and always the value. Never any weights."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "sae"}
        always, defaults = ("block", "op", "value"), {f.name: f.default for f in fields(self)}
        written = {n: v for n, v in values.items() if n in always or v != defaults[n]}
        if self.where is not None:
            written["where"] = self.where.to_json()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in written.items()}

    @classmethod
    def from_json(cls, value: JSON) -> "Edit":
        """Inverse of `to_json`; raises UnboxError for an object that is not an edit."""
        names = {f.name for f in fields(cls)} - {"sae"}
        if not isinstance(value, Mapping) or not {"block", "op"} <= set(value) <= names:
            unknown = sorted(set(value) - names) if isinstance(value, Mapping) else value
            raise UnboxError(
                f"not an edit: {unknown}; an edit is an object with block, op and any of {sorted(names)}"
            )
        arguments: dict[str, Any] = {**value, "where": Mask.from_json(value.get("where"))}
        try:
            return cls(**arguments)
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

    def to_json(self) -> dict[str, JSON]:
        """`{"version": 1, "edits": [...]}`."""
        return {"version": VERSION, "edits": [edit.to_json() for edit in self.edits]}

    @classmethod
    def from_json(cls, value: JSON) -> "Edits":
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


class EditOptions(TypedDict, total=False):
    """Where, when and on which branch an edit acts, as users may say it (see `Edit`)."""

    where: MaskLike
    steps: Steps
    branch: str
    above: float | None


def _placed(
    where: MaskLike = None, steps: Steps = None, branch: str = "both", above: float | None = None
) -> dict[str, Any]:
    return {"where": where, "steps": steps, "branch": branch, "above": above}


class _Subject:
    """The five ways to edit a feature or a direction; each takes `EditOptions`."""

    unit: ClassVar[str]

    def _edit(self, op: str, value: ArrayLike, unit: str, **options: Unpack[EditOptions]) -> Edit:
        raise NotImplementedError

    def add(self, value: ArrayLike, unit: str | None = None, **options: Unpack[EditOptions]) -> Edit:
        """Add value units, whatever is there: costs a rank-one update, never an encode."""
        return self._edit("add", value, unit or self.unit, **options)

    def scale(self, value: ArrayLike, **options: Unpack[EditOptions]) -> Edit:
        """Multiply the coefficient; 1 changes nothing. `above`: only where it exceeds this."""
        return self._edit("scale", value, "absolute", **options)

    def ablate(self, **options: Unpack[EditOptions]) -> Edit:
        """Take it out: scale by 0."""
        return self._edit("scale", 0.0, "absolute", **options)

    def set(self, value: ArrayLike, unit: str | None = None, **options: Unpack[EditOptions]) -> Edit:
        """Set the coefficient to value units."""
        return self._edit("set", value, unit or self.unit, **options)

    def replace(self, value: ArrayLike, unit: str | None = None, **options: Unpack[EditOptions]) -> Edit:
        """Replace the block's update by it alone, without the SAE's bias: the feature's icon."""
        return self._edit("replace", value, unit or self.unit, **options)


@dataclass(frozen=True)
class Feature(_Subject):
    """One or several features of an SAE, ready to be edited. Values are in mean active values by default."""

    block: str
    index: int | tuple[int, ...]
    sae: Dictionary | None = field(default=None, compare=False, repr=False)
    source: str | None = None
    unit: ClassVar[str] = "mean"

    @property
    def name(self) -> str:
        """`up.0.1/4977`."""
        return f"{self.block}/{','.join(map(str, indices(self.index)))}"

    def _edit(self, op: str, value: ArrayLike, unit: str, **options: Unpack[EditOptions]) -> Edit:
        amount, feature, placed = number_or_curve(value), indices(self.index), _placed(**options)
        return Edit(self.block, op, amount, feature, unit=unit, source=self.source, sae=self.sae, **placed)


@dataclass(frozen=True)
class Direction(_Subject):
    """Any vector of the update's space: a steering vector, a neuron, a principal component."""

    block: str
    vector: ArrayLike
    sae: Dictionary | None = field(default=None, compare=False, repr=False)
    unit: ClassVar[str] = "absolute"

    def _edit(self, op: str, value: ArrayLike, unit: str, **options: Unpack[EditOptions]) -> Edit:
        amount, vector, placed = number_or_curve(value), tuple(unpacked(self.vector)), _placed(**options)
        return Edit(self.block, op, amount, direction=vector, unit=unit, sae=self.sae, **placed)


@dataclass(frozen=True)
class Block:
    """The whole update of a block."""

    block: str

    def scale(self, value: ArrayLike, **options: Unpack[EditOptions]) -> Edit:
        """Multiply the block's update; 0 removes what the block adds."""
        return Edit(self.block, "scale", number_or_curve(value), **_placed(**options))

    def ablate(self, **options: Unpack[EditOptions]) -> Edit:
        """Remove what the block adds."""
        return self.scale(0.0, **options)

    def reconstruct(self, sae: Dictionary | None = None, **options: Unpack[EditOptions]) -> Edit:
        """Substitute the SAE's reconstruction (pre-bias included, error dropped) for the update."""
        return Edit(self.block, "reconstruct", 1.0, sae=sae, **_placed(**options))


def _one_of(what: str, value: str, known: Sequence[str], where: str = "") -> None:
    if value not in known:
        raise UnboxError(f"{what} '{value}' does not exist{where}; there are {', '.join(known)}")
