"""The tables of `unbox bench shapes` as Markdown, to be read in a terminal or put into a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from unbox.experiments.tables import markdown_table
from unbox.ground_truth.bench.methods import METHODS

Rows = Sequence[Mapping[str, Any]]


def markdown(results: Mapping[str, Any], told: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """All tables; `told`: value -> method -> the row of its telling feature."""
    return "\n\n".join(
        [_values(results, told), _removed(results["removal"]), _owners(results["ownership"]), _moved(results)]
    )


def rate(row: Mapping[str, Any]) -> str:
    """Success [95 % interval] / collateral."""
    interval = f"[{row['success_low']:.2f}, {row['success_high']:.2f}]"
    return f"{row['success']:.2f} {interval} / {row['collateral']:.2f}"


def _short(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else f"{row['success']:.2f} / {row['collateral']:.2f}"


def _values(results: Mapping[str, Any], told: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """A line per value: how reliably it is drawn, what tells it, what brings it."""
    caused: dict[tuple[str, str], dict[str, Any]] = {}
    for row in results["causation"]:
        caused.setdefault((row["factor"], row["value"]), {})[row["method"]] = row
    others = [m for m in METHODS if m not in ("sae", "random")]
    head = ["value", "drawn", "AUROC", "IoU", "edit: blocks, spread, features in each x strength"]
    rows = []
    for value in dict.fromkeys([*told, *caused]):
        feature, by = told.get(value, {}).get("sae"), caused.get(value, {})
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


def _removed(rows: Rows) -> str:
    by: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        by.setdefault((row["factor"], row["value"]), {})[row["method"]] = row
    lines = [
        [
            f"{f} {v}",
            f"{of['sae']['size']} of {' + '.join(of['sae']['blocks'])}",
            rate(of["sae"]),
            rate(of["random"]),
        ]
        for (f, v), of in by.items()
    ]
    return markdown_table(["value", "ablated", "gone", "random features"], lines)


def _owners(rows: Rows) -> str:
    """Kinds of edits against blocks."""
    blocks = list(dict.fromkeys(row["block"] for row in rows))
    by = {(row["kind"], row["block"]): row for row in rows}
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    return markdown_table(
        ["edit", *blocks], [[kind, *(_short(by[kind, b]) for b in blocks)] for kind in kinds]
    )


def _moved(results: Mapping[str, Any]) -> str:
    """Ways of transport against kinds of edits."""
    rows = results["transport"]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    by = {(row["method"], row["kind"]): row for row in rows}
    ways = list(dict.fromkeys(row["method"] for row in rows))
    return markdown_table(
        ["method", *kinds], [[way, *(_short(by[way, kind]) for kind in kinds)] for way in ways]
    )
