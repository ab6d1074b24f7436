"""Blocks: what each block's SAE keeps, and what its features mean, in figures."""

from collections.abc import Sequence
from typing import Any

from unbox.explorer.figure_files import FIGURES, GROUP_FIGURES
from unbox.explorer.html import render
from unbox.explorer.session import ExplorerSession
from unbox.ground_truth.bench.bench_rows import BenchRow

TITLE = "Blocks"
#: What a cell of a table shows; None is a dash.
Cell = str | float | None
Table = Sequence[Sequence[Cell]]


def body(session: ExplorerSession) -> str:
    """Tables of the SAEs, of their held-out figures where there are some, and of what the atlas counted."""
    found = {name: figures for name in session.saes if (figures := figures_of(session, name))}
    bench = session.bench
    return render(
        "blocks.html",
        saes=[(name, s.block, s.width, s.latents, s.k, s.update_std) for name, s in session.saes.items()],
        figures=[[name, *(_cell(f.get(key)) for key in FIGURES)] for name, f in found.items()],
        groups=[
            [name, *map(group.get, GROUP_FIGURES)]
            for name, f in found.items()
            for group in f.get("groups", ())
        ],
        bench=bench_tables(bench.get("ownership", ()), bench.get("meaning", ())) if bench else None,
        atlas=None if session.atlas is None else session.atlas.summary(),
    )


def figures_of(session: ExplorerSession, name: str) -> dict[str, Any]:
    """Figures of an SAE: those given to the explorer, else those kept beside it when it was trained."""
    return dict(session.figures.get(name) or session.saes[name].meta.get("figures") or {})


def bench_tables(ownership: Sequence[BenchRow], meaning: Sequence[BenchRow]) -> dict[str, Table]:
    """What `unbox bench shapes` found: `blocks`; `carried`, rates by kind of edit and block; `meaning`, mean
    AUROC by block and method, with the number of values."""
    carried = {(row["kind"], row["block"]): _rate(row) for row in ownership}
    blocks = list(dict.fromkeys(row["block"] for row in ownership))
    kinds = dict.fromkeys(row["kind"] for row in ownership)
    by_method: dict[tuple[str, str], list[float]] = {}
    for row in meaning:
        by_method.setdefault((row["block"], row["method"]), []).append(row["auroc"])
    return {
        "blocks": blocks,
        "carried": [[kind, *(carried.get((kind, block)) for block in blocks)] for kind in kinds],
        "meaning": [[*key, sum(scores) / len(scores), len(scores)] for key, scores in by_method.items()],
    }


def _rate(row: BenchRow) -> str:
    """A rate with its interval."""
    return f"{row['success']:.2f} ({row['success_low']:.2f} to {row['success_high']:.2f})"


def _cell(value: Cell | Sequence[float]) -> Cell:
    """A figure, or an interval's two ends."""
    if value is None or isinstance(value, str | int | float):
        return value
    low, high = value
    return f"{low:.3f} to {high:.3f}"
