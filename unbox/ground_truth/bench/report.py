"""The page and tables of `unbox bench shapes`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from activation_store.files import write_text
from unbox.experiments.tables import write_table
from unbox.ground_truth.bench.bench_rows import BenchResults, CausationRow
from unbox.ground_truth.bench.methods import METHODS
from unbox.ground_truth.bench.scene_pairs import KINDS
from unbox.ground_truth.bench.tables import by_value, markdown, telling
from unbox.json_types import JSON
from unbox.templates import Templates

#: A value is drawn reliably if the detector reads it in this share of the unedited images that ask for it.
RELIABLE = 0.8

#: Figures of a method that are averaged over values.
MEANS: tuple[Literal["success", "collateral", "area"], ...] = ("success", "collateral", "area")

#: The bar of the project: a feature tells its value, its edit makes it, random features do not.
AUROC, FLIPS, HARM, CHANCE = 0.95, 0.80, 0.10, 0.05


def write_bench(results: BenchResults, context: Mapping[str, JSON], out: Path) -> Path:
    """Write `meaning.csv`, `causation.csv`, ..., `tables.md` and `report.html`; returns the page's path."""
    for name, rows in results.items():
        if isinstance(rows, list):
            write_table(out / f"{name}.csv", [{k: v for k, v in r.items() if k != "curve"} for r in rows])
    page = Templates("unbox.ground_truth.bench").render(
        "report.html",
        context=context,
        verdict=verdict(results),
        meaning=telling(results["meaning"]),
        methods=METHODS,
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


def verdict(results: BenchResults) -> dict[str, Any]:
    """Shares of reliably drawn values that pass each bar, and the mean success of each method."""
    reliable = {name for name, share in results["reliable"].items() if share >= RELIABLE}
    scores = [
        by["sae"]["auroc"]
        for value, by in telling(results["meaning"]).items()
        if "=".join(value) in reliable and "sae" in by
    ]
    caused = {v: by for v, by in by_value(results["causation"]).items() if "=".join(v) in reliable}
    flips = [by["sae"]["success"] >= FLIPS and by["sae"]["collateral"] <= HARM for by in caused.values()]
    still = [by["random"]["success"] <= CHANCE for by in caused.values()]
    return {
        "reliable": len(reliable),
        "telling": float(np.mean([score >= AUROC for score in scores])) if scores else 0.0,
        "flips": float(np.mean(flips)) if flips else 0.0,
        "still": float(np.mean(still)) if still else 0.0,
        "success": {
            method: {
                name: float(np.mean([by[method][name] for by in caused.values()])) if caused else 0.0
                for name in MEANS
            }
            for method in METHODS
        },
    }


def curves(rows: Sequence[CausationRow]) -> str:
    """Success against collateral, one line per method: each strength's mean over values. SVG."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for method in METHODS:
        of = [row["curve"] for row in rows if row["method"] == method]
        if not of:
            continue
        x = np.mean([[p["collateral"] for p in points] for points in of], 0)
        y = np.mean([[p["success"] for p in points] for points in of], 0)
        axes.plot(x, y, marker="o", label=method)
    axes.set(xlabel="collateral (share of other factors changed)", ylabel="success", ylim=(0, 1.02))
    axes.legend(fontsize="small")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
