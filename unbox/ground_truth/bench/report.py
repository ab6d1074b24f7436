"""The page and tables of `unbox bench shapes`; the tables also as Markdown, to be read in a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from activation_store.files import write_text
from unbox.experiments.report import figure_svg
from unbox.experiments.tables import markdown_table, write_table
from unbox.ground_truth.bench.bench_rows import BenchResults, BenchRow
from unbox.ground_truth.bench.methods import METHODS
from unbox.ground_truth.bench.scene_pairs import KINDS
from unbox.ground_truth.factor_scores import Value
from unbox.json_types import JSON
from unbox.statistics import bootstrap
from unbox.templates import Templates

#: A value is drawn reliably if the detector reads it in this share of the unedited images that ask for it.
RELIABLE = 0.8

#: Figures of a method that are averaged over values.
MEANS: tuple[Literal["success", "collateral", "artifacts", "area"], ...]
MEANS = ("success", "collateral", "artifacts", "area")

#: The bar of the project: a feature tells its value, its edit makes it, random features do not.
AUROC, FLIPS, HARM, CHANCE = 0.95, 0.80, 0.10, 0.05

#: Parts of a row that are rows themselves.
NESTED = ("curve", "trials")

ByValue = dict[Value, dict[str, BenchRow]]  # value -> method -> row


def write_bench(results: BenchResults, context: Mapping[str, JSON], out: Path) -> Path:
    """Write the tables of `write_tables`, `tables.md` and `report.html`; returns the page's path."""
    write_tables(results, out)
    page = Templates("unbox.ground_truth.bench").render(
        "report.html",
        context=context,
        verdict=verdict(results),
        meaning=telling(results["meaning"]),
        methods=methods_of(results),
        told_by=[m for m in METHODS if any(row["method"] == m for row in results["meaning"])],
        causation=by_value(results["causation"]),
        removal=results["removal"],
        blocks=list(dict.fromkeys(row["block"] for row in results["ownership"])),
        kinds=list(KINDS),
        owned={(row["kind"], row["block"]): row for row in results["ownership"]},
        transport_methods=list(dict.fromkeys(row["method"] for row in results["transport"])),
        moved={(row["kind"], row["method"]): row for row in results["transport"]},
        curves=curves(results["causation"]),
        bars={"auroc": AUROC, "flips": FLIPS, "harm": HARM, "chance": CHANCE},
    )
    write_text(out / "report.html", page)
    write_text(out / "tables.md", markdown(results) + "\n")
    return out / "report.html"


def write_tables(results: BenchResults, out: Path) -> None:
    """Write `meaning.csv`, `causation.csv`, ..., and `trials.csv` of what their edits were chosen among."""
    for name, rows in results.items():
        if isinstance(rows, list):
            write_table(out / f"{name}.csv", [{k: v for k, v in r.items() if k not in NESTED} for r in rows])
    if trials := _trials(results):
        write_table(out / "trials.csv", trials)


def _trials(results: BenchResults) -> list[dict[str, Any]]:
    """What the edits of `causation` and `removal` were chosen among, on trial pictures."""
    parts = {"causation": results["causation"], "removal": results["removal"]}
    return [
        {"part": part, "factor": row["factor"], "value": row["value"], "method": row["method"], **tried}
        for part, rows in parts.items()
        for row in rows
        for tried in row.get("trials", ())
    ]


def methods_of(results: BenchResults) -> list[str]:
    """The methods that were measured, in their order."""
    measured = {row["method"] for row in results["causation"]}
    return [method for method in METHODS if method in measured]


def by_value(rows: Iterable[BenchRow]) -> ByValue:
    """Rows by their value and their method; of several the first."""
    table: ByValue = {}
    for row in rows:
        table.setdefault((row["factor"], row["value"]), {}).setdefault(row["method"], row)
    return table


def telling(rows: Sequence[BenchRow]) -> ByValue:
    """Of `meaning` the row of the best block, chosen as the feature is: on half of the captions."""
    best = by_value(sorted(rows, key=lambda row: -row["chosen_at"]))
    return {value: best[value] for value in by_value(rows)}


def verdict(results: BenchResults) -> dict[str, Any]:
    """Shares of reliably drawn values that pass each bar, and the mean success of each method."""
    reliable = {name for name, share in results["reliable"].items() if share >= RELIABLE}
    told, caused = (
        [by for value, by in table.items() if "=".join(value) in reliable]
        for table in (telling(results["meaning"]), by_value(results["causation"]))
    )
    return {
        "reliable": len(reliable),
        "telling": _mean([by["sae"]["auroc"] >= AUROC for by in told if "sae" in by]),
        "flips": _mean([by["sae"]["success"] >= FLIPS and by["sae"]["collateral"] <= HARM for by in caused]),
        "still": _mean([by["random"]["success"] <= CHANCE for by in caused]),
        "success": {
            m: {name: _mean([by[m][name] for by in caused if name in by[m]]) for name in MEANS}
            for m in methods_of(results)
        },
        "mcc": dict(results.get("mcc", {})),
    }


def _mean(numbers: Sequence[float]) -> float:
    return float(np.mean(numbers)) if numbers else 0.0


def _artifacts(row: BenchRow) -> str:
    """The share of artifacts; nothing in rows of versions that did not measure it."""
    return f" / {row['artifacts']:.2f}" if "artifacts" in row else ""


def curves(rows: Sequence[BenchRow]) -> str:
    """Success against collateral, one line per method: each strength's mean over values. SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for method in [m for m in METHODS if any(row["method"] == m for row in rows)]:
        of = [[(p["collateral"], p["success"]) for p in r["curve"]] for r in rows if r["method"] == method]
        if of:
            axes.plot(*np.mean(of, 0).T, marker="o", label=method)
    axes.set(xlabel="collateral (share of other factors changed)", ylabel="success", ylim=(0, 1.02))
    axes.legend(fontsize="small")
    return figure_svg(figure)


def markdown(results: BenchResults) -> str:
    """All tables."""
    cells = {(row["kind"], row["block"]): row for row in results["ownership"]}
    moved = {(row["method"], row["kind"]): row for row in results["transport"]}
    tables = (
        _means(results),
        _by_strength(results),
        _told(results["meaning"]),
        _values(results),
        _removed(results["removal"]),
        _crossed("edit", cells),
        _crossed("method", moved),
    )
    return "\n\n".join(tables)


def _means(results: BenchResults) -> str:
    """Each method's means over the values that it was measured on, with intervals over them, and how many
    values it brings at tolerable cost."""
    lines = []
    for method in methods_of(results):
        rows = [row for row in results["causation"] if row["method"] == method]
        brought = sum(row["success"] >= FLIPS and row["collateral"] <= HARM for row in rows)
        means = [_interval([row[name] for row in rows if name in row]) for name in MEANS]
        lines.append([method, *means, f"{brought} of {len(rows)}"])
    bar = f"values with success >= {FLIPS:.2f} and collateral <= {HARM:.2f}"
    return markdown_table(["method", *MEANS, bar], lines)


def _by_strength(results: BenchResults) -> str:
    """Mean success / collateral / artifacts of each method's chosen edit at every strength."""
    points = [(row["method"], point) for row in results["causation"] for point in row["curve"]]
    strengths = sorted({point["strength"] for _, point in points})
    lines = []
    for method in methods_of(results):
        cells = []
        for strength in strengths:
            of = [p for m, p in points if m == method and p["strength"] == strength]
            figures = [[p[name] for p in of if name in p] for name in MEANS[:3]]
            cells.append(" / ".join(f"{_mean(numbers):.2f}" for numbers in figures if numbers))
        lines.append([method, *cells])
    head = [f"x {strength:g}" for strength in strengths]
    return markdown_table(["method: success / collateral / artifacts", *head], lines)


def _told(rows: Sequence[BenchRow]) -> str:
    """Of each dictionary how many values its best feature tells, and the mean AUROC."""
    lines = []
    for method in [m for m in METHODS if any(row["method"] == m for row in rows)]:
        best = [by[method]["auroc"] for by in telling(rows).values() if method in by]
        lines.append([method, f"{sum(a >= AUROC for a in best)} of {len(best)}", f"{_mean(best):.3f}"])
    return markdown_table(["dictionary", f"values with AUROC >= {AUROC}", "mean AUROC"], lines)


def _interval(numbers: Sequence[float]) -> str:
    if not numbers:
        return ""
    found = bootstrap(np.array(numbers))
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _rate(row: BenchRow) -> str:
    """Success [95 % interval] / collateral / artifacts [95 % interval]."""
    interval = f"[{row['success_low']:.2f}, {row['success_high']:.2f}]"
    spoilt = f" [{row['artifacts_low']:.2f}, {row['artifacts_high']:.2f}]" if "artifacts" in row else ""
    return f"{row['success']:.2f} {interval} / {row['collateral']:.2f}{_artifacts(row)}{spoilt}"


def _short(row: BenchRow | None) -> str:
    return "" if row is None else f"{row['success']:.2f} / {row['collateral']:.2f}{_artifacts(row)}"


def _values(results: BenchResults) -> str:
    """A line per value: how reliably it is drawn, what tells it, what brings it."""
    features, caused = telling(results["meaning"]), by_value(results["causation"])
    others = [m for m in methods_of(results) if m not in ("sae", "random")]
    head = ["value", "drawn", "AUROC", "IoU", "edit: blocks, spread, features in each x strength"]
    lines = []
    for value in dict.fromkeys([*features, *caused]):
        drawn = results["reliable"].get("=".join(value))
        feature, by = features.get(value, {}).get("sae"), caused.get(value, {})
        told = moved = score = ""
        if feature is not None:
            told = f"{feature['auroc']:.3f} ({feature['block']}/{feature['feature']})"
            score = f"{feature['iou']:.2f}" if "iou" in feature else ""
        if edit := by.get("sae"):
            moved = f"{' + '.join(edit['blocks'])}, {edit['spread']}, {edit['size']} x {edit['strength']:g}"
        rates = [_rate(by[m]) if m in by else "" for m in ("sae", "random")]
        line = [" ".join(value), "" if drawn is None else f"{drawn:.2f}", told, score, moved, *rates]
        lines.append([*line, *(_short(by.get(m)) for m in others)])
    return markdown_table([*head, "SAE features", "random features", *others], lines)


def _removed(rows: Sequence[BenchRow]) -> str:
    lines = []
    for value, by in by_value(rows).items():
        ablated = f"{by['sae']['size']} of {' + '.join(by['sae']['blocks'])}"
        lines.append([" ".join(value), ablated, _rate(by["sae"]), _rate(by["random"])])
    return markdown_table(["value", "ablated", "gone", "random features"], lines)


def _crossed(corner: str, cells: Mapping[tuple[str, str], BenchRow]) -> str:
    """Rates in rows and columns; `corner` says what the rows are."""
    lines, columns = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    table = [[line, *(_short(cells[line, column]) for column in columns)] for line in lines]
    return markdown_table([corner, *columns], table)
