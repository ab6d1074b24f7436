"""The page and tables of `unbox bench shapes`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from activation_store.files import write_text
from unbox.experiments.tables import write_table
from unbox.ground_truth.bench.methods import METHODS
from unbox.ground_truth.bench.scene_pairs import KINDS
from unbox.ground_truth.bench.tables import markdown
from unbox.templates import Templates

Rows = Sequence[dict[str, Any]]

#: The bar of the project: a feature tells its value, its edit makes it, random features do not.
AUROC, FLIPS, HARM, CHANCE = 0.95, 0.80, 0.10, 0.05


def write_bench(results: dict[str, Any], context: dict[str, Any], out: Path) -> Path:
    """Write `meaning.csv`, `causation.csv`, ..., `tables.md` and `report.html`; returns the page's path."""
    for name in ("meaning", "causation", "removal", "ownership", "transport"):
        write_table(
            out / f"{name}.csv", [{k: v for k, v in row.items() if k != "curve"} for row in results[name]]
        )
    page = Templates("unbox.ground_truth.bench").render(
        "report.html",
        context=context,
        verdict=verdict(results),
        meaning=meaning(results["meaning"]),
        methods=METHODS,
        causation=causation(results["causation"]),
        removal=results["removal"],
        blocks=list(dict.fromkeys(row["block"] for row in results["ownership"])),
        kinds=list(KINDS),
        owned={(row["kind"], row["block"]): row for row in results["ownership"]},
        ways=list(dict.fromkeys(row["method"] for row in results["transport"])),
        moved={(row["kind"], row["method"]): row for row in results["transport"]},
        curves=curves(results["causation"]),
        bars={"auroc": AUROC, "flips": FLIPS, "harm": HARM, "chance": CHANCE},
    )
    write_text(out / "report.html", page)
    write_text(out / "tables.md", markdown(results, meaning(results["meaning"])) + "\n")
    return out / "report.html"


def meaning(rows: Rows) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """Value -> method -> the row of its best block, chosen as the feature is: on half of the captions."""
    table: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        best = table.setdefault((row["factor"], row["value"]), {})
        if row["method"] not in best or row["chosen_at"] > best[row["method"]]["chosen_at"]:
            best[row["method"]] = row
    return table


def causation(rows: Rows) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """Value -> method -> its row."""
    table: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        table.setdefault((row["factor"], row["value"]), {})[row["method"]] = row
    return table


def verdict(results: dict[str, Any]) -> dict[str, Any]:
    """Shares of reliably drawn values that pass each bar, and the mean success of each method."""
    reliable = {name for name, share in results["reliable"].items() if share >= 0.8}
    told = [
        max(row["auroc"] for m, row in by.items() if m == "sae")
        for value, by in meaning(results["meaning"]).items()
        if "=".join(value) in reliable and "sae" in by
    ]
    caused = {v: by for v, by in causation(results["causation"]).items() if "=".join(v) in reliable}
    flips = [by["sae"]["success"] >= FLIPS and by["sae"]["collateral"] <= HARM for by in caused.values()]
    still = [by["random"]["success"] <= CHANCE for by in caused.values()]
    return {
        "reliable": len(reliable),
        "told": float(np.mean([score >= AUROC for score in told])) if told else 0.0,
        "flips": float(np.mean(flips)) if flips else 0.0,
        "still": float(np.mean(still)) if still else 0.0,
        "success": {
            method: {
                name: float(np.mean([by[method][name] for by in caused.values()])) if caused else 0.0
                for name in ("success", "collateral", "area")
            }
            for method in METHODS
        },
    }


def curves(rows: Rows) -> str:
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
