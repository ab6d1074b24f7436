"""What an experiment found: tables (CSV, Parquet), plots, and a page with images."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from activation_store.files import write_text
from unbox.experiments.auto_choice import AutoChoice
from unbox.experiments.experiment_plan import ExperimentPlan
from unbox.experiments.tables import Table, write_table
from unbox.image_uri import file_uri, image_uri
from unbox.json_types import JSON
from unbox.statistics import Interval, bootstrap
from unbox.templates import Templates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Columns of a row that say what it is; the others are figures.
IDENTITY = ("condition", "edit", "control", "prompt", "prompt_index", "seed", "image", "unedited")

#: Prompts and conditions shown as images.
SHOWN_PROMPTS, SHOWN_CONDITIONS = 6, 24

#: Longest side of an image as it stands in the page, in pixels; larger ones are scaled down, and compressed.
#: Of 150 images of pure noise that is 15 MB; of pictures, some 2 MB.
SHOWN_SIDE, SHOWN_QUALITY = 256, 80


@dataclass(frozen=True)
class ConditionSummary:
    """The figures of one condition over its images."""

    condition: str
    edit: str
    control: int
    grid: Mapping[str, JSON]
    """Axis -> value."""
    images: int
    figures: Mapping[str, Interval]

    @property
    def row(self) -> dict[str, JSON]:
        """A row of `summary.csv`."""
        cells: dict[str, JSON] = {"condition": self.condition, "edit": self.edit, "control": self.control}
        cells |= {f"grid_{axis}": value for axis, value in self.grid.items()} | {"images": self.images}
        return cells | {k: v for name, of in self.figures.items() for k, v in of.columns(name).items()}

    def line(self, axis: str) -> str:
        """What a line through conditions along an axis is called: everything else."""
        others = [f"{name}={value}" for name, value in self.grid.items() if name != axis]
        kind = [] if self.control == -1 else [f"random features {self.control}"]
        return ", ".join([self.edit, *kind, *others])


def metrics_of(table: Table) -> list[str]:
    """Names of the figures, in the order they first appear."""
    names = dict.fromkeys(name for row in table for name in row)
    return [name for name in names if name not in IDENTITY and not name.startswith("grid_")]


def summary(table: Table) -> list[ConditionSummary]:
    """For each condition, the mean of each figure with a bootstrap interval over prompts.

    Seeds of a prompt are averaged first: prompts are the independent units.
    """
    names = metrics_of(table)
    return [
        _summed([row for row in table if row["condition"] == label], names)
        for label in dict.fromkeys(str(row["condition"]) for row in table)
    ]


def _summed(rows: Table, names: Sequence[str]) -> ConditionSummary:
    first, (prompts, places) = rows[0], np.unique([row["prompt_index"] for row in rows], return_inverse=True)
    figures = {}
    for name in names:
        values = np.array([row.get(name, np.nan) for row in rows], float)
        by_prompt = np.bincount(places, values, len(prompts)) / np.bincount(places)
        figures[name] = bootstrap(by_prompt)
    grid = {key.removeprefix("grid_"): value for key, value in first.items() if key.startswith("grid_")}
    control = int(str(first["control"]))
    return ConditionSummary(str(first["condition"]), str(first["edit"]), control, grid, len(rows), figures)


def write_report(plan: ExperimentPlan, table: Table, out: Path, choices: Sequence[AutoChoice] = ()) -> Path:
    """Write `rows.csv` (and `.parquet`), `summary.csv`, `plots/*.svg` and `report.html`; returns the page.
    `choices`: what was chosen by other pictures."""
    means, names = summary(table), metrics_of(table)
    write_table(out / "rows.csv", table)
    write_table(out / "summary.csv", [entry.row for entry in means])
    plots = {name: plot(means, name) for name in names}
    (out / "plots").mkdir(exist_ok=True)
    for plotted in (out / "plots").glob("*.svg"):
        if plotted.stem not in plots:  # of a run with other metrics
            plotted.unlink()
    for name, svg in plots.items():
        write_text(out / "plots" / f"{name}.svg", svg)
    columns = _shown(means, names[0])
    page = Templates("unbox.experiments").render(
        "report.html", plan=plan, means=means, names=names, plots=plots,
        columns=["no edit", *columns], choices=[(each, choice_plots(each)) for each in choices],
        lines=_lines(plan, table, columns, out),
    )  # fmt: skip
    write_text(out / "report.html", page)
    return out / "report.html"


def choice_plots(choice: AutoChoice) -> list[str]:
    """The curves by which steps, blocks and strength were chosen, as SVG: effects with intervals by the step
    at which the edit begins or ends; effect and artifacts by strength."""
    from matplotlib.figure import Figure

    found = []
    if choice.curves is not None and choice.curves.begins:
        figure = Figure(figsize=(5, 3), layout="constrained")
        axes = figure.subplots()
        for name, curve in (("begins at", choice.curves.begins), ("ends before", choice.curves.ends)):
            mean, low, high = np.array(list(curve.values())).T
            axes.plot(list(curve), mean, marker="o", label=name)
            axes.fill_between(list(curve), low, high, alpha=0.2)
        axes.axhline(choice.curves.whole.mean, color="#999", linestyle=":", label="all steps")
        axes.set(xlabel="step", ylabel="effect")
        axes.legend(fontsize="small")
        found.append(figure_svg(figure))
    if choice.calibration is not None:
        tried = sorted(choice.calibration.tried, key=lambda each: each.strength)
        figure = Figure(figsize=(5, 3), layout="constrained")
        axes = figure.subplots()
        for name in ("effect", "artifacts"):
            axes.plot([t.strength for t in tried], [getattr(t, name) for t in tried], marker="o", label=name)
        axes.axvline(choice.calibration.strength, color="#999", linestyle=":", label="chosen")
        axes.set(xlabel="strength", xscale="log")
        axes.legend(fontsize="small")
        found.append(figure_svg(figure))
    return found


def plot(means: Sequence[ConditionSummary], name: str) -> str:
    """A figure by condition with intervals, as SVG: a bar each, or lines where a grid has a numeric axis."""
    from matplotlib.figure import Figure

    axis = _numeric_axis(means)
    figure = Figure(figsize=(8, 3.2 if axis else 0.8 + 0.28 * len(means)), layout="constrained")
    axes = figure.subplots()
    if axis:
        for line in dict.fromkeys(entry.line(axis) for entry in means):
            points = [e for e in means if e.line(axis) == line and axis in e.grid]
            x = np.array([e.grid[axis] for e in points], float)
            mean, low, high = np.array([e.figures[name] for e in points]).reshape(-1, 3)[np.argsort(x)].T
            axes.plot(np.sort(x), mean, marker="o", label=line)
            axes.fill_between(np.sort(x), low, high, alpha=0.2)
        axes.set(xlabel=axis, ylabel=name)
        axes.legend(fontsize="small")
    else:
        y = np.arange(len(means))[::-1]
        mean, low, high = np.array([e.figures[name] for e in means]).T
        axes.barh(y, mean, xerr=np.nan_to_num(np.abs([mean - low, high - mean])), color="#4c78a8")
        axes.set(yticks=y, yticklabels=[e.condition for e in means], xlabel=name)
    return figure_svg(figure)


def figure_svg(figure: "Figure") -> str:
    """A figure as the SVG element of a page, the same each time."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "unbox"}):  # else names in it are drawn at random
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _numeric_axis(means: Sequence[ConditionSummary]) -> str | None:
    """A grid's axis with several numbers on it."""
    for axis in dict.fromkeys(axis for entry in means for axis in entry.grid):
        values = [entry.grid.get(axis) for entry in means]
        if len({value for value in values if isinstance(value, int | float)}) > 2:
            return axis
    return None


def _shown(means: Sequence[ConditionSummary], name: str) -> list[str]:
    """Conditions shown as images: where there are many, those in which a figure is largest."""
    largest = sorted(means, key=lambda entry: -entry.figures[name].mean)[:SHOWN_CONDITIONS]
    return [entry.condition for entry in means if entry in largest]


def _lines(plan: ExperimentPlan, table: Table, columns: Sequence[str], out: Path) -> list[dict[str, JSON]]:
    """Images of the first seed: a line for each of the first prompts, the unedited image first."""
    lines: list[dict[str, JSON]] = []
    for index, prompt in enumerate(plan.prompts[:SHOWN_PROMPTS]):
        cells = [r for r in table if r["prompt_index"] == index and r["seed"] == plan.seeds[0]]
        images = {str(row["condition"]): row["image"] for row in cells}
        paths = [cells[0]["unedited"], *(images[column] for column in columns)]
        shown = [{"file": str(path), "uri": _shown_uri(out / str(path))} for path in paths]
        lines.append({"prompt": prompt.text, "images": shown})
    return lines


def _shown_uri(path: Path) -> str:
    """An image for the page, as a data URI: small ones as they are."""
    with Image.open(path) as image:
        if max(image.size) <= SHOWN_SIDE:
            return file_uri(path)
        small = image.convert("RGB")
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return image_uri(small, quality=SHOWN_QUALITY)
