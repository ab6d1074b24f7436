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
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from unbox.capture.prompt_reader import read_prompts
from unbox.edit import Edits
from unbox.errors import UnboxError
from unbox.experiments.critics import critics, critics_by_place
from unbox.mask import Mask
from unbox.prompt import Prompt

_EDIT_WORDS = (
    "block",
    "op",
    "value",
    "feature",
    "direction",
    "unit",
    "where",
    "steps",
    "branch",
    "above",
    "source",
)


@dataclass(frozen=True)
class Condition:
    """One cell of the grid: edits to make, and what they are meant for."""

    name: str
    edits: Edits
    settings: Mapping[str, Any]
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
    clip: str | None = None
    """Hub id or folder of a CLIP model, for the metric of that name."""
    batch_size: int = 8
    source: Mapping[str, Any] = field(default_factory=dict)
    """The file's content as it was read."""

    @property
    def sampling(self) -> dict[str, Any]:
        """Options of `generate` that change images."""
        given = {name: getattr(self, name) for name in ("steps", "guidance", "height", "width")}
        return {name: value for name, value in given.items() if value is not None}


def read_plan(path: str | Path) -> ExperimentPlan:
    """Read an experiment's TOML file; paths in it are relative to it. Raises UnboxError, naming the file."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return make_plan(data, path.parent)
    except FileNotFoundError as error:
        raise UnboxError(f"there is no file {error.filename}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, UnboxError) as error:
        raise UnboxError(f"{path}: {error}") from error


def make_plan(data: Mapping[str, Any], folder: Path = Path()) -> ExperimentPlan:
    """A plan from the file's content."""
    known = {f.name for f in fields(ExperimentPlan)} - {"conditions", "source"}
    _known("an experiment", data, known | {"edit"})
    missing = [name for name in ("model", "prompts", "edit") if not data.get(name)]
    if missing:
        raise UnboxError(f"the experiment has no {missing[0]}; it needs model, prompts and [[edit]] tables")
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in data.items() if name in known
    }
    values["prompts"] = _prompts(data["prompts"], folder)
    values["conditions"] = tuple(c for table in data["edit"] for c in _conditions(table, folder))
    if values.get("saes"):
        values["saes"] = str(folder / values["saes"])
    labels = [c.label for c in values["conditions"]]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice:
        raise UnboxError(f"two edits are called '{twice}'; give each a name of its own")
    return ExperimentPlan(**values, source=dict(data))


def _prompts(given: Any, folder: Path) -> tuple[Prompt, ...]:
    if isinstance(given, list):
        return tuple(Prompt(str(text)) for text in given)
    if isinstance(given, Mapping) and set(given) == {"file"}:
        return tuple(read_prompts(str((folder / given["file"]).resolve())))
    named = [name for name in critics() if isinstance(given, Mapping) and name in given]
    if named:
        critic, options = critics()[named[0]], dict(given)
        _known(f"prompts from {critic.name}", given, {critic.name, *critic.prompt_options})
        return tuple(critic.prompts(int(options.pop(critic.name)), **options))
    worlds = "".join(f", or {{ {name} = N, seed = S }}" for name in critics())
    raise UnboxError('prompts are a list, { file = "..." }' + worlds)


def _conditions(table: Mapping[str, Any], folder: Path) -> list[Condition]:
    """One edit table, its grid expanded, each with its controls."""
    own = {"name", "grid", "target", "control", "edits", "file"}
    _known("an edit", table, own | set(_EDIT_WORDS))
    grid = table.get("grid", {})
    _known("the grid of an edit", grid, set(_EDIT_WORDS))
    target = table.get("target")
    if target is not None:
        _check_target(target)
    found = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        edits, place = _edits({**table, **settings}, own, folder)
        name = str(table.get("name") or edits[0].op)
        for control in (None, *range(int(table.get("control", 0)))):
            found.append(Condition(name, edits, settings, place, tuple(target) if target else None, control))
    if table.get("control") and not any(e.subject == "feature" for c in found for e in c.edits):
        raise UnboxError("random-feature controls are for edits of features")
    return found


def _check_target(target: Sequence[str]) -> None:
    known = [(factor, v) for c in critics().values() for factor, values in c.targets.items() for v in values]
    if tuple(target) not in known:
        of_factor = [v for factor, v in known if target and factor == target[0]]
        raise UnboxError(
            f"target {target} is not a factor and one of its values that a critic reads; there are "
            f"{', '.join(of_factor or dict.fromkeys(factor for factor, _ in known))}"
        )


def _edits(table: Mapping[str, Any], own: set[str], folder: Path) -> tuple[Edits, str | None]:
    """The edits of one condition, and the place in the scene where their mask is."""
    if "file" in table:
        from unbox.edits import load_edits

        return load_edits(folder / table["file"]), None
    rows = table.get("edits") or [{k: v for k, v in table.items() if k not in own}]
    places, where = critics_by_place(), rows[0].get("where")
    place = where if isinstance(where, str) and where in places else None
    resolved = []
    for row in rows:
        row = dict(row)
        if isinstance(row.get("feature"), int):
            row["feature"] = [row["feature"]]
        if isinstance(row.get("where"), str) and row["where"] in places:
            if row["where"] != place:
                raise UnboxError(f"the edits of one table act in one place: {' or '.join(map(repr, places))}")
            del row["where"]
        if isinstance(row.get("where"), Mapping) and set(row["where"]) == {"image"}:
            row["where"] = _image_mask(folder / row["where"]["image"])
        resolved.append(row)
    return Edits.from_json(resolved), place


def _image_mask(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        mask = Mask.of(image)
    assert mask is not None
    return mask.to_json()


def _known(what: str, given: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(given) - known)
    if unknown:
        raise UnboxError(f"{what} has no '{unknown[0]}'; it has {', '.join(sorted(known))}")
