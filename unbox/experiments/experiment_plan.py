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

[[edit]]
name = "as much as it takes"
edits = [
    { block = "up.0.1", feature = [17], op = "add", value = 1.0 },
    { block = "up.0.0", feature = [4], op = "add", value = 1.0 },
]
target = ["colour", "red"]
steps = "auto"                       # chosen on other pictures than are reported
blocks = "auto"
strength = "auto"                    # the smallest at which the target is read in a share `reach` (0.8)
```
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date, time
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Le, Len

from unbox.capture.prompt_reader import read_prompts
from unbox.edit import Edit, Edits
from unbox.edits.edit_files import load_edits
from unbox.edits.strength import at_strength
from unbox.errors import FieldError, UnboxError
from unbox.experiments.critics import check_metrics, critics, critics_by_place
from unbox.former_names import renamed
from unbox.json_types import JSON
from unbox.mask import Mask
from unbox.memory_limit import require
from unbox.picture_file import read_mask
from unbox.prompt import Prompt
from unbox.text_files import read_toml_file
from unbox.validation import (
    BatchSize,
    FilePath,
    Guidance,
    Instance,
    JSONObject,
    Positive,
    Seed,
    Several,
    Side,
    Steps,
    Text,
    Whole,
    checked,
    parsed,
    unknown,
    validated,
)

#: Keys of an edit's table that are the edit's, and may be axes of its grid.
EDIT_KEYS = tuple(f.name for f in fields(Edit) if f.name != "sae")

#: Keys of a file that were called otherwise.
FORMER = {"clip": "clip_model"}
#: Bytes that a cell of a grid takes in memory, and a trial: an image to make, with what it is called by.
CELL_BYTES, TRIAL_BYTES = 8192, 2048
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
    auto: "AutoOptions | None" = None
    """What of the edits is still to be chosen."""

    @property
    def label(self) -> str:
        """Name and settings on one line."""
        chosen = ", ".join(f"{axis}={value}" for axis, value in self.settings.items())
        kind = "" if self.control is None else f" (random features {self.control})"
        return f"{self.name}{kind}" + (f": {chosen}" if chosen else "")


#: What is reached in a share of pictures, unless told, where a critic reads a target.
REACH = 0.8


@validated
class AutoOptions:
    """What of an edit is to be chosen on other pictures than are reported; at least one."""

    steps: bool = False
    blocks: bool = False
    strength: bool = False
    reach: Positive | None = None
    """Mean effect at which a strength is enough."""


@validated
class TableOptions:
    """What an edit's table says beside the edit."""

    name: Text | None = None
    grid: JSONObject = field(default_factory=dict)
    """Axis -> values; every combination is a condition."""
    target: Several[Text] | None = None
    """Factor and value, which the critics know."""
    control: Annotated[Whole, Ge(0), Le(10_000)] = 0
    """Random draws of features to make beside each condition."""
    edits: Several[JSONObject] = ()
    """Several edits that act together, in place of the table's own."""
    file: FilePath | None = None
    """Edits of a file, in place of the table's own."""
    blocks: Literal["auto"] | None = None
    """Choose which of the edits' blocks are edited."""
    strength: Literal["auto"] | None = None
    """Choose how much of the edit is made: see `unbox.edits.strength`."""
    reach: Positive | None = None
    """What a strength has to reach: the share of pictures with the target (0.8 unless told) or, without one,
    the mean of the first figure of the first metric."""

    def __post_init__(self) -> None:
        for axis, values in self.grid.items():
            if axis not in EDIT_KEYS:
                raise FieldError("", f"grid.{axis}", values, unknown(axis, EDIT_KEYS))
            if not isinstance(values, list | tuple) or not values:
                raise FieldError("", f"grid.{axis}", values, "should be a list of values")
        if self.reach is not None and self.strength is None:
            raise FieldError("", "reach", self.reach, 'is for strength = "auto"')
        if self.strength is not None and self.target is None and self.reach is None:
            rule = "should be given: without a target, what the first metric's figure has to reach"
            raise FieldError("", "reach", None, rule)


@validated
class ExperimentPlan:
    """Everything that decides an experiment's results. Unknown words in the file are errors."""

    model: Annotated[Text, Len(1)]
    prompts: Annotated[Several[Annotated[Prompt, Instance()]], Len(1)]
    conditions: Annotated[Several[Annotated[Condition, Instance()]], Len(1)]
    title: Text = "Experiment"
    about: Text = ""
    """A paragraph for the report."""
    saes: FilePath | None = None
    auto_prompts: Several[Annotated[Prompt, Instance()]] = ()
    """Prompts of the pictures by which "auto" chooses; none: the plan's own under other seeds."""
    seeds: Annotated[Several[Seed], Len(1)] = (0,)
    steps: Steps | None = None
    guidance: Guidance | None = None
    height: Side | None = None
    width: Side | None = None
    metrics: Several[Text] = ("pixels", "structure", "colour")
    clip_model: Text | None = None
    """Hub id or folder of a CLIP model, for the metric of that name."""
    batch_size: BatchSize = 8
    source: JSONObject = field(default_factory=dict)
    """The file's content as it was read."""

    def __post_init__(self) -> None:
        check_metrics(self.metrics, self.clip_model)
        if len(set(self.seeds)) < len(self.seeds):
            raise FieldError("", "seeds", self.seeds, "should differ: the same seed is the same image")
        images = (len(self.conditions) + 1) * len(self.prompts) * len(self.seeds)
        require(images * TRIAL_BYTES, f"an experiment of {images:,} images")

    @property
    def sampling(self) -> dict[str, Any]:
        """Options of `generate` that change images."""
        names = ("steps", "guidance", "height", "width")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        # As the file writes it: results are named by 0 and by 0.0 differently.
        return {n: self.source[n] if self.source.get(n) == value else value for n, value in given.items()}


def read_plan(path: str | Path) -> ExperimentPlan:
    """Read an experiment's TOML file; paths in it are relative to it. Raises UnboxError, naming the file."""
    path = Path(path)
    data = read_toml_file(path)
    try:
        return make_plan(data, path.parent)
    except FieldError as error:
        raise error.at(f"{path}: {error.door}" if error.door else str(path)) from None
    except UnboxError as error:
        raise UnboxError(f"{path}: {error}") from error


def make_plan(data: Mapping[str, TOML], folder: Path = Path()) -> ExperimentPlan:
    """A plan from the file's content."""
    values: dict[str, Any] = dict(renamed(data, FORMER))
    known = [f.name for f in fields(ExperimentPlan) if f.name not in ("conditions", "source")]
    if wrong := next((key for key in values if key not in (*known, "edit")), None):
        raise FieldError("", wrong, values[wrong], unknown(wrong, (*known, "edit")))
    missing = [name for name in ("model", "prompts", "edit") if not values.get(name)]
    if missing:
        raise UnboxError(f"the experiment has no {missing[0]}; it needs model, prompts and [[edit]] tables")
    if not isinstance(seeds := values.get("seeds", []), list | tuple):
        raise FieldError("", "seeds", seeds, "should be a list of seeds, like [0, 1]")
    tables = checked(Several[JSONObject], "edit", values.pop("edit"))
    values["prompts"] = _prompts(values["prompts"], folder)
    if "auto_prompts" in values:
        values["auto_prompts"] = _prompts(values["auto_prompts"], folder)
    conditions = [c for number, table in enumerate(tables, 1) for c in _conditions(table, number, folder)]
    if values.get("saes") is not None:
        values["saes"] = folder / checked(FilePath, "saes", values["saes"])
    label, count = Counter(c.label for c in conditions).most_common(1)[0]
    if count > 1:
        raise UnboxError(f"two edits are called '{label}'; give each a name of its own")
    return parsed(ExperimentPlan, {**values, "conditions": conditions, "source": dict(data)}, "")


def _prompts(given: PromptSource, folder: Path) -> tuple[Prompt, ...]:
    if isinstance(given, list | tuple):
        return tuple(
            Prompt(checked(Text, "text", text, f"prompts[{place}]")) for place, text in enumerate(given)
        )
    if isinstance(given, Mapping) and set(given) == {"file"}:
        file = checked(FilePath, "file", given["file"], "prompts")
        return tuple(read_prompts(str((folder / file).resolve())))
    for name, critic in critics().items():
        if isinstance(given, Mapping) and name in given:
            options = vars(parsed(critic.prompt_options, given, "prompts"))
            return tuple(critic.prompts(options[name], **{k: v for k, v in options.items() if k != name}))
    worlds = "".join(f", or {{ {name} = N, seed = S }}" for name in critics())
    raise FieldError("", "prompts", given, 'should be a list, or { file = "..." }' + worlds)


def _conditions(table: EditTable, number: int, folder: Path) -> list[Condition]:
    """One edit table, its grid expanded, each with its controls."""
    door, own = f"[[edit]] {number}", [f.name for f in fields(TableOptions)]
    steps = table.get("steps") == "auto"
    table = {key: value for key, value in table.items() if key != "steps" or not steps}
    if wrong := next((key for key in table if key not in (*own, *EDIT_KEYS)), None):
        raise FieldError(door, wrong, table[wrong], unknown(wrong, (*own, *EDIT_KEYS)))
    options = parsed(TableOptions, {key: table[key] for key in own if key in table}, door)
    one: EditTable = {key: value for key, value in table.items() if key not in own}
    given = [key for key in ("edits", "file") if key in table]
    if given and (len(given) > 1 or one or options.grid):
        raise UnboxError(f"{door}: {given[0]} says all of the edits: give no others beside it, and no grid")
    cells = prod(len(values) for values in options.grid.values()) * (1 + options.control)
    require(cells * CELL_BYTES, f"a grid of {cells:,} conditions", door)
    target = _target(options.target)
    found: list[Condition] = []
    for values in itertools.product(*options.grid.values()):
        settings = dict(zip(options.grid, values, strict=True))
        rows = options.edits or ({**one, **settings},)
        edits, place = _edits(rows, folder) if options.file is None else _of_file(folder / options.file)
        auto = _auto(options, steps, edits, door)
        cell = Condition(options.name or edits[0].op, edits, settings, place, target, auto=auto)
        found += [cell, *(replace(cell, control=draw) for draw in range(options.control))]
    if options.control and not any(e.subject == "feature" for c in found for e in c.edits):
        raise UnboxError("random-feature controls are for edits of features")
    return found


def _auto(options: TableOptions, steps: bool, edits: Edits, door: str) -> AutoOptions | None:
    """What is to be chosen of a condition's edits; None if nothing is."""
    blocks, strength = options.blocks is not None, options.strength is not None
    if not (steps or blocks or strength):
        return None
    if blocks and len(edits.blocks) < 2:
        raise FieldError(
            door, "blocks", "auto", f"should be left out: the edits are of {edits.blocks[0]} alone"
        )
    if strength:
        at_strength(edits, 0.5)  # says which have none
    return AutoOptions(steps, blocks, strength, (options.reach or REACH) if strength else None)


def _target(given: tuple[str, ...] | None) -> tuple[str, str] | None:
    if given is None:
        return None
    known = [(factor, v) for c in critics().values() for factor, values in c.targets.items() for v in values]
    if given not in known:
        of_factor = [value for factor, value in known if factor in given[:1]]
        raise UnboxError(
            f"target {list(given)} is not a factor and one of its values that a critic reads; there are "
            f"{', '.join(of_factor or dict.fromkeys(factor for factor, _ in known))}"
        )
    return given[0], given[1]


def _of_file(path: Path) -> tuple[Edits, None]:
    edits = load_edits(path)
    if not len(edits):
        raise UnboxError(f"{path} holds no edits")
    return edits, None


def _edits(rows: Sequence[EditTable], folder: Path) -> tuple[Edits, str | None]:
    """The edits of one condition, and the place in the picture where their mask is."""
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
        file = checked(FilePath, "image", where["image"], "where")
        row["where"] = Mask.of(read_mask(folder / file)).to_json()
    return row
