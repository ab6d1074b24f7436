"""Edits as values: what to change at a block while an image is sampled. Frozen, validated, JSON both ways.

An edit names a block, a **subject** (features of an SAE, a direction, or the whole update), an op, a value,
and where, when and on which branch it acts. `Feature`, `Direction` and `Block` make edits; `+` composes them.

Order of composition, per block (edits of different blocks are independent):

1. edits of the whole update (`scale`, `reconstruct`), `replace` and `swap`, in the order written, each on
   what the one before left;
2. edits of features and directions. Their coefficients are read once, from the update as the block computed
   it; edits of one feature act on its coefficient in the order written; what they changed is added, times
   the feature's decoder direction.

So edits of different features or directions commute, and `add`s commute with each other; `scale` and `set`
of the same feature do not commute.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, fields
from typing import Any, ClassVar, Literal, TypedDict, Unpack, get_args

from numpy.typing import ArrayLike

from unbox.dictionary import AnyDictionary, Dictionary
from unbox.edit_ops import OPS, ops_of
from unbox.edit_values import Curve, FeatureIndex, FeatureIndices, Numbers, StepRange, StepsLike, Vector
from unbox.errors import FieldError
from unbox.json_types import JSON
from unbox.mask import MaskLike, Where
from unbox.site import BlockName
from unbox.validation import Real, Seed, Several, Text, inside, parsed, validated
from unbox.vectors import Vectors, VectorsField

VERSION = 1
Branch = Literal["both", "cond", "uncond", "contrast"]
BRANCHES = get_args(Branch)

#: Units of a value: 1; the feature's mean active value; the update's root mean square deviation, as a norm.
Unit = Literal["absolute", "mean", "deviation"]
UNITS = get_args(Unit)


@validated
class Edit:
    """One change at one block. Raises FieldError for a value that cannot be, or does not fit the others."""

    block: BlockName
    """Short name of the block, e.g. `up.0.1`."""
    op: Text
    """`add`, `scale` by, `set` to, `replace` the update by the value; `reconstruct` the update by the SAE;
    `swap` the update, where features fire, for one of another place.
    `unbox.edit_ops` has a row for each."""
    value: Curve = 1.0
    """A number, or one per step (steps beyond its end keep the last)."""
    feature: FeatureIndices = ()
    """Indices of the features edited, if features are."""
    direction: Numbers = ()
    """The vector edited along, if a direction is."""
    unit: Unit = "absolute"
    """What a value of 1 means for `add`, `set`, `replace`: one of `UNITS`."""
    where: Where | None = None
    """Weights over positions, between no change (0) and the whole change (1); None is everywhere."""
    steps: StepRange | None = None
    """Half-open range of the scheduler's indices; None is all steps."""
    branch: Branch = "both"
    """`both`, `cond`, `uncond`; `contrast` adds on cond and subtracts on uncond."""
    above: Real | None = None
    """Act only where the coefficient exceeds this (absolute units)."""
    donors: VectorsField | None = None
    """What `swap` puts in, (count, d): updates of a reference image or of a store; None: those of the same
    map where no feature of the edit fires."""
    seed: Seed = 0
    """Which of them `swap` takes for each place."""
    source: Text | None = None
    """Name of the SAE that the features belong to, where a block has several."""
    sae: AnyDictionary | None = field(default=None, compare=False, repr=False)
    """The SAE (or other dictionary) itself, in memory only; `unbox.edits.bind` attaches it."""

    def __post_init__(self) -> None:
        if self.feature and self.direction:
            raise FieldError("", "direction", self.direction, "should be left out of an edit of features")
        if self.op not in (known := ops_of(self.subject)):
            rule = f"should be an op of {self.subject} edits: {', '.join(known)}"
            raise FieldError("", "op", self.op, rule)
        self._check_fit()

    def _check_fit(self) -> None:
        """Refuse options that would do nothing with this op."""
        op, of_update = OPS[self.op], self.of_update
        shape = () if self.where is None else self.where.shape
        misfits = [
            ("branch", self.branch == "contrast" and not op.adds, "should be another: 'contrast' is for add"),
            ("unit", self.unit == "mean" and self.subject != "feature", "should be of an edit of features"),
            ("unit", self.unit != "absolute" and not op.has_unit, f"should be left out: {self.op} has none"),
            (
                "above",
                self.above is not None and (not op.has_threshold or (of_update and not op.swaps)),
                "should be of a scale or set edit of features or directions, or of a swap",
            ),
            ("donors", self.donors is not None and not op.swaps, "should be left out: it is for swap"),
            ("seed", self.seed != 0 and not op.swaps, "should be left out: it is for swap"),
            (
                "where",
                self.where is not None and self.where.own and of_update,
                "should be another: 'own' is for add, scale and set edits of features and directions",
            ),
            ("direction", bool(self.direction) and not any(self.direction), "should not be zero"),
            (
                "where",
                len(shape) == 4 and shape[0] != len(self.feature),
                f"should have a map for each of the {len(self.feature)} features, not {shape[:1]}",
            ),
        ]
        for name, misfit, rule in misfits:
            if misfit:
                raise FieldError("", name, getattr(self, name), rule)

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
        if self.donors is not None:
            written["donors"] = self.donors.to_json()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in written.items()}

    @classmethod
    def from_json(cls, value: JSON) -> "Edit":
        """Inverse of `to_json`. Raises FieldError for what is no edit."""
        if isinstance(value, Mapping):
            if "sae" in value:
                raise FieldError("edit", "sae", value["sae"], "is unknown: SAEs are attached, not written")
            for name in ("feature", "direction"):
                if name in value and isinstance(value[name], list | tuple) and not value[name]:
                    raise FieldError("edit", name, value[name], "should not be empty")
        return parsed(cls, value, "edit")


@validated
class Edits:
    """Several edits, in order. `+` appends; `Edits()` is no edit."""

    edits: Several[Edit] = ()

    @classmethod
    def of(cls, value: "Edit | Edits | None") -> "Edits":
        """None, one edit or several, as Edits. Raises UnboxError for anything else."""
        if isinstance(value, cls):
            return value
        if value is None or isinstance(value, Edit):
            return cls(() if value is None else (value,))
        raise FieldError("", "edits", value, "should be edits: sae.feature(i).scale(3) makes one")

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
            if extra := sorted(map(str, set(value) - {"version", "edits"})):
                raise FieldError("", extra[0], value[extra[0]], "is unknown, there are version, edits")
            if (version := value.get("version", VERSION)) != VERSION:
                raise FieldError("", "version", version, f"should be {VERSION}: this unbox reads no other")
            value = value["edits"]
        rows = [value] if isinstance(value, Mapping) else value
        if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
            raise FieldError("", "edits", value, "should be a list of edits")
        edits = []
        for place, row in enumerate(rows):
            with inside(f"edits[{place}]"):
                edits.append(Edit.from_json(row))
        return cls(tuple(edits))


class EditOptions(TypedDict, total=False):
    """Where, when and on which branch an edit acts, as users may say it (see `Edit`)."""

    where: MaskLike
    steps: StepsLike
    branch: str
    above: float | None


def _edit(block: str, op: str, value: Any, **options: Any) -> Edit:
    """An edit of what users may write, which its rules make plain."""
    return Edit(block, op, value, **options)


class _Subject:
    """The five ways to edit a feature or a direction; each takes `EditOptions`."""

    unit: ClassVar[str]

    def _edit(self, op: str, value: ArrayLike, unit: str, **options: Unpack[EditOptions]) -> Edit:
        raise NotImplementedError

    def add(self, value: ArrayLike, unit: str | None = None, **options: Unpack[EditOptions]) -> Edit:
        """Add value units, whatever is there: costs a rank-one update, never an encode."""
        return self._edit("add", value, self.unit if unit is None else unit, **options)

    def scale(self, value: ArrayLike, **options: Unpack[EditOptions]) -> Edit:
        """Multiply the coefficient; 1 changes nothing. `above`: only where it exceeds this."""
        return self._edit("scale", value, "absolute", **options)

    def ablate(self, **options: Unpack[EditOptions]) -> Edit:
        """Take it out: scale by 0."""
        return self._edit("scale", 0.0, "absolute", **options)

    def set(self, value: ArrayLike, unit: str | None = None, **options: Unpack[EditOptions]) -> Edit:
        """Set the coefficient to value units."""
        return self._edit("set", value, self.unit if unit is None else unit, **options)

    def replace(self, value: ArrayLike, unit: str | None = None, **options: Unpack[EditOptions]) -> Edit:
        """Replace the block's update by it alone, without the SAE's bias: the feature's icon."""
        return self._edit("replace", value, self.unit if unit is None else unit, **options)


@validated
class Feature(_Subject):
    """One or several features of an SAE, ready to be edited. Values are in mean active values by default."""

    block: BlockName
    index: FeatureIndex
    sae: AnyDictionary | None = field(default=None, compare=False, repr=False)
    source: Text | None = None
    unit: ClassVar[str] = "mean"

    @property
    def name(self) -> str:
        """`up.0.1/4977`."""
        several = self.index if isinstance(self.index, tuple) else (self.index,)
        return f"{self.block}/{','.join(map(str, several))}"

    def swap(
        self,
        value: ArrayLike = 1.0,
        *,
        donors: "Vectors | ArrayLike | None" = None,
        seed: int = 0,
        **options: Unpack[EditOptions],
    ) -> Edit:
        """Where any of the features fires (above `above`; None: at all), the block's update gives way to one
        of a place of the same map where none does, or to one of `donors`; `value`: how much of it, from 0 to
        1.

        The feature only finds the places: what is put in is of the activations' own distribution (PER,
        arXiv 2606.31699). An image that fires everywhere stays as it is.
        """
        of: dict[str, Any] = {"feature": self.index, "source": self.source, "sae": self.sae}
        return _edit(self.block, "swap", value, donors=donors, seed=seed, **of, **options)

    def _edit(self, op: str, value: ArrayLike, unit: str, **options: Unpack[EditOptions]) -> Edit:
        of: dict[str, Any] = {"feature": self.index, "source": self.source, "sae": self.sae}
        return _edit(self.block, op, value, unit=unit, **of, **options)


@validated
class Direction(_Subject):
    """Any vector of the update's space: a steering vector, a neuron, a principal component."""

    block: BlockName
    vector: Vector
    sae: AnyDictionary | None = field(default=None, compare=False, repr=False)
    unit: ClassVar[str] = "absolute"

    def _edit(self, op: str, value: ArrayLike, unit: str, **options: Unpack[EditOptions]) -> Edit:
        of: dict[str, Any] = {"direction": self.vector, "sae": self.sae}
        return _edit(self.block, op, value, unit=unit, **of, **options)


@validated
class Block:
    """The whole update of a block."""

    block: BlockName

    def scale(self, value: ArrayLike, **options: Unpack[EditOptions]) -> Edit:
        """Multiply the block's update; 0 removes what the block adds."""
        return _edit(self.block, "scale", value, **options)

    def ablate(self, **options: Unpack[EditOptions]) -> Edit:
        """Remove what the block adds."""
        return self.scale(0.0, **options)

    def reconstruct(self, sae: Dictionary | None = None, **options: Unpack[EditOptions]) -> Edit:
        """Substitute the SAE's reconstruction (pre-bias included, error dropped) for the update."""
        return _edit(self.block, "reconstruct", 1.0, sae=sae, **options)
