"""An experiment as its file declares it: model, SAEs, prompts, seeds, edits over grids, metrics.

```toml
title = "Which block owns what?"
model = "shapes-turbo"
saes = "saes/"                       # only where edits name features
prompts = { shapes = 16, seed = 7 }  # or a list, or { file = "prompts.txt" }
seeds = [0, 1]
metrics = ["pixels", "structure", "colour", "factors"]

[[edit]]
name = "ablate"
op = "scale"
value = 0.0
grid = { block = ["down.2.1", "mid.0", "up.0.0", "up.0.1"] }

[[edit]]
name = "more of it"
block = "up.0.1"
feature = 17
op = "add"
unit = "mean"
where = "object"                     # a critic's place; or { box = [...] }, { image = "mask.png" }, "own"
target = ["colour", "red"]           # what the critic should read afterwards
control = 3                          # random features of equal norm, drawn three times
grid = { value = [2, 4, 8] }
```
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date, time
from pathlib import Path
from typing import Any, TypeAlias

from unbox.capture.prompt_reader import read_prompts
from unbox.edit import Edit, Edits
from unbox.edits.edit_files import load_edits
from unbox.errors import UnboxError
from unbox.experiments.critics import critics, critics_by_place
from unbox.former_names import renamed
from unbox.json_types import JSON
from unbox.mask import Mask
from unbox.picture_file import read_mask
from unbox.prompt import Prompt
from unbox.text_files import read_toml_file
from unbox.validation import Text, checked

#: Keys of an edit's table that are the edit's, and may be axes of its grid; the others.
EDIT_KEYS = {f.name for f in fields(Edit)} - {"sae"}
TABLE_KEYS = {"name", "grid", "target", "control", "edits", "file"}

#: Keys of a file that were called otherwise.
FORMER = {"clip": "clip_model"}
#: A list of texts, or a table: `file`, or a critic's name with its options.
PromptSource = Sequence[str] | Mapping[str, bool | int | float | str]
#: An edit's table; `Edits.from_json` checks what is the edit's.
EditTable = Mapping[str, JSON]
#: What a TOML file can hold.
TOML: TypeAlias = "bool | int | float | str | date | time | Sequence[TOML] | Mapping[str, TOML]"


@dataclass(frozen=True)
class Condition:
    """One cell of the grid: edits to make, and what they are meant for."""

    name: str
    edits: Edits
    settings: Mapping[str, JSON]
    """The values that the grid chose: axis -> value."""
    place: str | None = None
    """A critic's name of a place (`object`), where the mask differs between prompts."""
    target: tuple[str, str] | None = None
    control: int | None = None
    """Number of the random draw, for controls; None for the edit itself."""

    @property
    def label(self) -> str:
        """Name and settings on one line."""
        chosen = ", ".join(f"{axis}={value}" for axis, value in self.settings.items())
        kind = "" if self.control is None else f" (random features {self.control})"
        return f"{self.name}{kind}" + (f": {chosen}" if chosen else "")


@dataclass(frozen=True)
class ExperimentPlan:
    """Everything that decides an experiment's results. Unknown words in the file are errors."""

    model: str
    prompts: tuple[Prompt, ...]
    conditions: tuple[Condition, ...]
    title: str = "Experiment"
    about: str = ""
    """A paragraph for the report."""
    saes: str | None = None
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    guidance: float | None = None
    height: int | None = None
    width: int | None = None
    metrics: tuple[str, ...] = ("pixels", "structure", "colour")
    clip_model: str | None = None
    """Hub id or folder of a CLIP model, for the metric of that name."""
    batch_size: int = 8
    source: Mapping[str, TOML] = field(default_factory=dict)
    """The file's content as it was read."""

    @property
    def sampling(self) -> dict[str, Any]:
        """Options of `generate` that change images."""
        names = ("steps", "guidance", "height", "width")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def read_plan(path: str | Path) -> ExperimentPlan:
    """Read an experiment's TOML file; paths in it are relative to it. Raises UnboxError, naming the file."""
    path = Path(path)
    data = read_toml_file(path)
    try:
        return make_plan(data, path.parent)
    except UnboxError as error:
        raise UnboxError(f"{path}: {error}") from error


def make_plan(data: Mapping[str, TOML], folder: Path = Path()) -> ExperimentPlan:
    """A plan from the file's content."""
    data = renamed(data, FORMER)
    known = {f.name for f in fields(ExperimentPlan)} - {"conditions", "source"}
    _known("an experiment", data, known | {"edit"})
    missing = [name for name in ("model", "prompts", "edit") if not data.get(name)]
    if missing:
        raise UnboxError(f"the experiment has no {missing[0]}; it needs model, prompts and [[edit]] tables")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
    values["prompts"] = _prompts(values["prompts"], folder)
    values["conditions"] = tuple(c for table in values.pop("edit") for c in _conditions(table, folder))
    if values.get("saes"):
        values["saes"] = str(folder / values["saes"])
    labels = [c.label for c in values["conditions"]]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice:
        raise UnboxError(f"two edits are called '{twice}'; give each a name of its own")
    return ExperimentPlan(**values, source=dict(data))


def _prompts(given: PromptSource, folder: Path) -> tuple[Prompt, ...]:
    if isinstance(given, list | tuple):
        return tuple(
            Prompt(checked(Text, "text", text, f"prompts[{place}]")) for place, text in enumerate(given)
        )
    if isinstance(given, Mapping) and set(given) == {"file"}:
        return tuple(read_prompts(str((folder / str(given["file"])).resolve())))
    for name, critic in critics().items():
        if isinstance(given, Mapping) and name in given:
            _known(f"prompts from {name}", given, {name, *critic.prompt_options})
            options = dict(given)
            return tuple(critic.prompts(int(options.pop(name)), **options))
    worlds = "".join(f", or {{ {name} = N, seed = S }}" for name in critics())
    raise UnboxError('prompts are a list, { file = "..." }' + worlds)


def _conditions(table: EditTable, folder: Path) -> list[Condition]:
    """One edit table, its grid expanded, each with its controls."""
    _known("an edit", table, TABLE_KEYS | EDIT_KEYS)
    grid: dict[str, list[JSON]] = dict(table.get("grid", {}))  # type: ignore[arg-type]
    _known("the grid of an edit", grid, EDIT_KEYS)
    target, controls = _target(table.get("target")), int(str(table.get("control", 0)))
    found: list[Condition] = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        edits, place = _edits({**table, **settings}, folder)
        cell = Condition(str(table.get("name") or edits[0].op), edits, settings, place, target)
        found += [cell, *(replace(cell, control=draw) for draw in range(controls))]
    if controls and not any(e.subject == "feature" for c in found for e in c.edits):
        raise UnboxError("random-feature controls are for edits of features")
    return found


def _target(given: JSON) -> tuple[str, str] | None:
    if given is None:
        return None
    known = [(factor, v) for c in critics().values() for factor, values in c.targets.items() for v in values]
    asked = [str(part) for part in given] if isinstance(given, Sequence) else [str(given)]
    if (*asked,) not in known:
        of_factor = [value for factor, value in known if factor == asked[0]]
        raise UnboxError(
            f"target {given} is not a factor and one of its values that a critic reads; there are "
            f"{', '.join(of_factor or dict.fromkeys(factor for factor, _ in known))}"
        )
    return asked[0], asked[1]


def _edits(table: EditTable, folder: Path) -> tuple[Edits, str | None]:
    """The edits of one condition, and the place in the picture where their mask is."""
    if "file" in table:
        return load_edits(folder / str(table["file"])), None
    one = {key: value for key, value in table.items() if key not in TABLE_KEYS}
    rows: list[EditTable] = table.get("edits") or [one]  # type: ignore[assignment]
    places = critics_by_place()
    place = where if isinstance(where := rows[0].get("where"), str) and where in places else None
    return Edits.from_json([_resolved(row, place, tuple(places), folder) for row in rows]), place


def _resolved(row: EditTable, place: str | None, places: Sequence[str], folder: Path) -> EditTable:
    """An edit's JSON: one number as a list, places left to each prompt, images read as masks."""
    row, where = dict(row), row.get("where")
    if isinstance(row.get("feature"), int):
        row["feature"] = [row["feature"]]
    if isinstance(where, str) and where in places:
        if where != place:
            raise UnboxError(f"the edits of one table act in one place: {' or '.join(map(repr, places))}")
        del row["where"]
    if isinstance(where, Mapping) and set(where) == {"image"}:
        row["where"] = Mask.of(read_mask(folder / str(where["image"]))).to_json()
    return row


def _known(what: str, given: Iterable[str], known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise UnboxError(f"{what} has no '{unknown[0]}'; it has {', '.join(sorted(known))}")
