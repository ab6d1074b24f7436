"""The tables of `unbox bench shapes` as Markdown, to be read in a terminal or put into a page."""

from collections.abc import Sequence
from typing import TypeVar

from unbox.experiments.tables import markdown_table
from unbox.ground_truth.bench.bench_rows import (
    BenchResults,
    CausationRow,
    MeaningRow,
    OwnershipRow,
    Rates,
    RemovalRow,
    TransportRow,
)
from unbox.ground_truth.bench.methods import METHODS
from unbox.ground_truth.factor_scores import Value

Row = TypeVar("Row", CausationRow, RemovalRow)


def by_value(rows: Sequence[Row]) -> dict[Value, dict[str, Row]]:
    """Value -> method -> its row."""
    table: dict[Value, dict[str, Row]] = {}
    for row in rows:
        table.setdefault((row["factor"], row["value"]), {})[row["method"]] = row
    return table


def telling(rows: Sequence[MeaningRow]) -> dict[Value, dict[str, MeaningRow]]:
    """Value -> method -> the row of its best block, chosen as the feature is: on half of the captions."""
    table: dict[Value, dict[str, MeaningRow]] = {}
    for row in rows:
        best = table.setdefault((row["factor"], row["value"]), {})
        if row["method"] not in best or row["chosen_at"] > best[row["method"]]["chosen_at"]:
            best[row["method"]] = row
    return table


def markdown(results: BenchResults) -> str:
    """All tables."""
    return "\n\n".join(
        [
            _values(results),
            _removed(results["removal"]),
            _owners(results["ownership"]),
            _moved(results["transport"]),
        ]
    )


def rate(row: Rates) -> str:
    """Success [95 % interval] / collateral."""
    interval = f"[{row['success_low']:.2f}, {row['success_high']:.2f}]"
    return f"{row['success']:.2f} {interval} / {row['collateral']:.2f}"


def _short(row: Rates | None) -> str:
    return "" if row is None else f"{row['success']:.2f} / {row['collateral']:.2f}"


def _values(results: BenchResults) -> str:
    """A line per value: how reliably it is drawn, what tells it, what brings it."""
    features, caused = telling(results["meaning"]), by_value(results["causation"])
    others = [m for m in METHODS if m not in ("sae", "random")]
    head = ["value", "drawn", "AUROC", "IoU", "edit: blocks, spread, features in each x strength"]
    rows = []
    for value in dict.fromkeys([*features, *caused]):
        feature, by = features.get(value, {}).get("sae"), caused.get(value, {})
        edit = by.get("sae")
        drawn = results["reliable"].get("=".join(value))
        rows.append(
            [
                f"{value[0]} {value[1]}",
                "" if drawn is None else f"{drawn:.2f}",
                ""
                if feature is None
                else f"{feature['auroc']:.3f} ({feature['block']}/{feature['feature']})",
                "" if feature is None or "iou" not in feature else f"{feature['iou']:.2f}",
                ""
                if edit is None
                else f"{' + '.join(edit['blocks'])}, {edit['spread']}, {edit['size']} x {edit['strength']:g}",
                *("" if m not in by else rate(by[m]) for m in ("sae", "random")),
                *(_short(by.get(m)) for m in others),
            ]
        )
    return markdown_table([*head, "SAE features", "random features", *others], rows)


def _removed(rows: Sequence[RemovalRow]) -> str:
    lines = [
        [
            f"{f} {v}",
            f"{of['sae']['size']} of {' + '.join(of['sae']['blocks'])}",
            rate(of["sae"]),
            rate(of["random"]),
        ]
        for (f, v), of in by_value(rows).items()
    ]
    return markdown_table(["value", "ablated", "gone", "random features"], lines)


def _owners(rows: Sequence[OwnershipRow]) -> str:
    """Kinds of edits against blocks."""
    cells = {(row["kind"], row["block"]): row for row in rows}
    blocks, kinds = dict.fromkeys(row["block"] for row in rows), dict.fromkeys(row["kind"] for row in rows)
    lines = [[kind, *(_short(cells[kind, block]) for block in blocks)] for kind in kinds]
    return markdown_table(["edit", *blocks], lines)


def _moved(rows: Sequence[TransportRow]) -> str:
    """Methods of transport against kinds of edits."""
    cells = {(row["method"], row["kind"]): row for row in rows}
    methods, kinds = dict.fromkeys(row["method"] for row in rows), dict.fromkeys(row["kind"] for row in rows)
    lines = [[method, *(_short(cells[method, kind]) for kind in kinds)] for method in methods]
    return markdown_table(["method", *kinds], lines)
