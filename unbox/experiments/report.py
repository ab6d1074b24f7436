"""What an experiment found: tables (CSV, Parquet), plots, and a page with images."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from activation_store.files import publish_file, write_text
from unbox.experiments.experiment_plan import ExperimentPlan
from unbox.image_uri import file_uri
from unbox.statistics import bootstrap
from unbox.templates import Templates

#: Columns of a row that say what it is; the others are figures.
IDENTITY = ("condition", "edit", "control", "prompt", "prompt_index", "seed", "image", "unedited")

#: Prompts and conditions shown as images.
SHOWN_PROMPTS, SHOWN_CONDITIONS = 6, 24

Table = Sequence[dict[str, Any]]


def metrics_of(table: Table) -> list[str]:
    """Names of the figures, in the order they first appear."""
    names = dict.fromkeys(name for row in table for name in row)
    return [name for name in names if name not in IDENTITY and not name.startswith("grid_")]


def summary(table: Table) -> list[dict[str, Any]]:
    """One row per condition: mean of each figure with a 95 % bootstrap interval over prompts.

    Seeds of a prompt are averaged first: prompts are the independent units.
    """
    names = metrics_of(table)
    found = []
    for label in dict.fromkeys(row["condition"] for row in table):
        rows = [row for row in table if row["condition"] == label]
        entry = {
            k: rows[0][k] for k in rows[0] if k in ("condition", "edit", "control") or k.startswith("grid_")
        }
        entry["images"] = len(rows)
        for name in names:
            by_prompt: dict[int, list[float]] = {}
            for row in rows:
                by_prompt.setdefault(row["prompt_index"], []).append(row.get(name, np.nan))
            entry[name], entry[f"{name}_low"], entry[f"{name}_high"] = bootstrap(
                np.array([np.mean(values) for values in by_prompt.values()])
            )
        found.append(entry)
    return found


def write_report(plan: ExperimentPlan, table: Table, out: Path) -> Path:
    """Write `rows.csv` (and `.parquet`), `summary.csv`, `plots/*.svg` and `report.html`; returns the page."""
    means = summary(table)
    write_table(out / "rows.csv", table)
    write_table(out / "summary.csv", means)
    plots = {name: plot(means, name) for name in metrics_of(table)}
    (out / "plots").mkdir(exist_ok=True)
    for name, svg in plots.items():
        write_text(out / "plots" / f"{name}.svg", svg)
    write_text(out / "report.html", page(plan, table, means, plots, out))
    return out / "report.html"


def write_table(path: Path, table: Table) -> None:
    """CSV, and Parquet beside it where pyarrow is installed."""
    columns = list(dict.fromkeys(name for row in table for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _cell(v) for k, v in row.items()} for row in table)
    write_text(path, text.getvalue())
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return
    held = pyarrow.table({name: [_cell(row.get(name)) for row in table] for name in columns})
    with publish_file(path.with_suffix(".parquet")) as temporary:
        parquet.write_table(held, temporary)


def _cell(value: Any) -> Any:
    """What a table's cell can hold: numbers and text."""
    return value if value is None or isinstance(value, int | float | str) else str(value)


def plot(means: Sequence[dict[str, Any]], name: str) -> str:
    """A figure by condition with intervals, as SVG: a bar each, or lines where a grid has a numeric axis."""
    from matplotlib.figure import Figure

    axis = _numeric_axis(means)
    figure = Figure(figsize=(8, 3.2 if axis else 0.8 + 0.28 * len(means)), layout="constrained")
    axes = figure.subplots()
    if axis:
        for line in dict.fromkeys(_line(entry, axis) for entry in means):
            points = sorted((e for e in means if _line(e, axis) == line and axis in e), key=lambda e: e[axis])
            x = [e[axis] for e in points]
            axes.plot(x, [e[name] for e in points], marker="o", label=line)
            axes.fill_between(
                x, [e[f"{name}_low"] for e in points], [e[f"{name}_high"] for e in points], alpha=0.2
            )
        axes.set(xlabel=axis.removeprefix("grid_"), ylabel=name)
        axes.legend(fontsize="small")
    else:
        y = np.arange(len(means))[::-1]
        value = np.array([e[name] for e in means], float)
        spread = np.array([[e[name] - e[f"{name}_low"], e[f"{name}_high"] - e[name]] for e in means]).T
        axes.barh(y, value, xerr=np.nan_to_num(np.abs(spread)), color="#4c78a8")
        axes.set(yticks=y, yticklabels=[e["condition"] for e in means], xlabel=name)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _numeric_axis(means: Sequence[dict[str, Any]]) -> str | None:
    """A grid's axis with several numbers on it."""
    for axis in dict.fromkeys(k for e in means for k in e if k.startswith("grid_")):
        values = {e[axis] for e in means if axis in e and isinstance(e[axis], int | float)}
        if len(values) > 2:
            return axis
    return None


def _line(entry: dict[str, Any], axis: str) -> str:
    """What a line through the conditions is called: everything but the axis."""
    others = [f"{k.removeprefix('grid_')}={entry[k]}" for k in entry if k.startswith("grid_") and k != axis]
    kind = [] if entry["control"] == -1 else [f"random features {entry['control']}"]
    return ", ".join([entry["edit"], *kind, *others])


def page(
    plan: ExperimentPlan, table: Table, means: list[dict[str, Any]], plots: dict[str, str], out: Path
) -> str:
    """The report as one HTML file, its images inside."""
    return Templates("unbox.experiments").render(
        "report.html", plan=plan, means=means, names=metrics_of(table), plots=plots,
        grid=_grid(plan, table, means, out),
    )  # fmt: skip


def _grid(plan: ExperimentPlan, table: Table, means: list[dict[str, Any]], out: Path) -> dict[str, Any]:
    """Images of the first seed: a line for each of the first prompts, a column for each condition (where
    there are many, for those in which the first figure is largest)."""
    first = metrics_of(table)[0]
    told = sorted(means, key=lambda entry: -entry[first])[:SHOWN_CONDITIONS]
    columns = [entry["condition"] for entry in means if entry in told]
    lines = []
    for index in range(min(len(plan.prompts), SHOWN_PROMPTS)):
        cells = [r for r in table if r["prompt_index"] == index and r["seed"] == plan.seeds[0]]
        by_condition = {row["condition"]: row["image"] for row in cells}
        paths = [cells[0]["unedited"], *(by_condition[column] for column in columns)]
        lines.append({"prompt": plan.prompts[index].text, "images": [file_uri(out / path) for path in paths]})
    return {"columns": ["no edit", *columns], "lines": lines}
