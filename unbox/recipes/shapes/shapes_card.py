"""The card of a grown Shapes model, from the figures that its last stage's report measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from activation_store.files import write_json, write_text
from unbox.json_types import JSON
from unbox.recipes.shapes.orders import ORDERS
from unbox.shapes.factors import FACTORS
from unbox.site import DEFAULT_BLOCKS
from unbox.text_files import read_json_object

TEMPLATE = Path(__file__).parent / "shapes-turbo.md"
REPORT = "report.json"
#: In the folder of a run that goes on from a finished model: what the report of that has as `recipe`.
START = "start.json"


def orders_of(model: Path) -> list[str]:
    """The orders of `ORDERS` in which the model of a folder was made, one after the other, as its report
    says; none where it says nothing."""
    return _orders(read_json_object(model / REPORT).get("recipe")) if (model / REPORT).is_file() else []


def orders_of_run(out: Path, order: str) -> list[str]:
    """The order of the run in `out`, after those of the model that it went on from."""
    return [*(_orders(read_json_object(out / START)) if (out / START).is_file() else []), order]


def _orders(recipe: JSON) -> list[str]:
    told = recipe.get("orders") if isinstance(recipe, dict) else None
    told = told if isinstance(told, list) else []
    return [order for order in told if isinstance(order, str) and order in ORDERS]


def write_card(folder: Path, orders: Sequence[str], report: Mapping[str, Mapping[str, Any]]) -> None:
    """`README.md` and `report.json` in the folder of a model made in orders of `ORDERS`, one after the
    other."""
    report = {**report, "recipe": {"orders": list(orders)}}
    text = TEMPLATE.read_text(encoding="utf-8").replace("{orders}", "\n\n".join(map(_order, orders)))
    for name, table in (
        ("accuracy", _accuracy),
        ("ablations", _ablations),
        ("open", _open),
        ("micro", _micro),
    ):
        text = text.replace(f"{{{name}}}", table(report))
    write_json(folder / REPORT, report)
    write_text(folder / "README.md", text)


def _rows(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _order(name: str) -> str:
    """How an order made the model, or went on with it."""
    if not ORDERS[name].stages:
        return (
            f"`unbox recipe shapes --order {name} --start MODEL --stages finish`: the few-step finish alone, "
            "once more, from the finished model."
        )
    return (
        f"`unbox recipe shapes --order {name}`. Blocks that come in each stage, and the words that captions "
        f"then hold besides\nthose before (none named: all):\n\n{_stages(name)}"
    )


def _stages(order: str) -> str:
    kept, rows = ORDERS[order].kept, []
    if kept:
        rows.append([", ".join(kept), "", "kept from what `--start` names"])
    for stage in ORDERS[order].stages:
        trained = (
            "nothing but these" if stage.alone else "all but the blocks before" if stage.frozen else "all"
        )
        rows.append([", ".join(stage.blocks), ", ".join(stage.words), trained])
    return _rows(["blocks", "words", "trained"], rows)


def _accuracy(report: Mapping[str, Mapping[str, Any]]) -> str:
    columns = [*FACTORS, "all"]
    rows = [
        [name.partition(", detector")[0], "detector" if "detector" in name else "critic",
         *(f"{100 * found[column]:.1f}" for column in columns)]
        for name, found in report.items() if "all" in found
    ]  # fmt: skip
    return _rows(["captions", "read by", *columns], rows)


def _ablations(report: Mapping[str, Mapping[str, Any]]) -> str:
    found = report["ablations"]
    names = sorted(found, key=lambda name: (name not in DEFAULT_BLOCKS, -found[name]["change"]))
    rows = []
    for name in names:
        owned = sorted(FACTORS, key=lambda factor: -found[name][factor])
        told = [f"{factor} {found[name][factor]:.2f}" for factor in owned if found[name][factor] >= 0.05]
        rows.append([name, f"{found[name]['change']:.3f}", ", ".join(told) or "none"])
    return _rows(["block", "change", "share of readings that change, from .05"], rows)


def _open(report: Mapping[str, Mapping[str, Any]]) -> str:
    found = {name.removeprefix("open, "): of for name, of in report.items() if name.startswith("open, ")}
    last = list(found.values())[-1]
    rows = [
        [factor, *(f"{of[factor]['differ']:.2f}" for of in found.values()), f"{row['independent']:.2f}"]
        for factor, row in last.items()
    ]
    return _rows(["left open", *(f"two seeds differ, {name}" for name in found), "independent draws"], rows)


def _micro(report: Mapping[str, Mapping[str, Any]]) -> str:
    return _rows(
        ["size or crop", "figure"],
        [[name, f"{value:.2f}"] for name, value in report["sizes and crops"].items()],
    )
