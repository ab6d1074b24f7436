"""The tables of docs/recipes.md, of the results of the grid.

    python -m benchmarks.recipes_table [--check]

Writes what stands between the marks of the page; --check ends with 1 where it is not what the results give.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recipes_grid import GRID, RESULTS, ROOT
from unbox.statistics import bootstrap
from unbox.text_files import read_json_object, read_toml_file

PAGE = ROOT / "docs" / "recipes.md"
BEGIN, END = "<!-- made by python -m benchmarks.recipes_table -->", "<!-- end -->"

#: A result's number(s) for a column; seeds are stacked before captions.
Column = tuple[str, Callable[[dict[str, Any]], Any], str]


def figure(name: str) -> Callable[[dict[str, Any]], Any]:
    """A figure of a result."""
    return lambda result: result["figures"].get(name)


def plain(name: str) -> Callable[[dict[str, Any]], Any]:
    """Brightness of a plain picture."""
    return lambda result: result.get("plain", {}).get(name)


COLUMNS: dict[str, Column] = {
    "right": ("said and drawn, %", figure("right"), "%"),
    "distance": ("distance", figure("distance"), ".2f"),
    "to_real": ("to renders", figure("to_real"), ".3f"),
    "diversity": ("diversity", figure("diversity"), ".2f"),
    "wins": ("wins, %", figure("wins"), "%"),
    "likelihood": ("likelihood", figure("likelihood"), ".3f"),
    "reward": ("reward", figure("reward"), ".3f"),
    "black": ("black", plain("black"), ".3f"),
    "white": ("white", plain("white"), ".3f"),
    "darkest": ("darkest", figure("darkest"), ".3f"),
    "brightest": ("brightest", figure("brightest"), ".3f"),
}


@dataclass(frozen=True)
class Row:
    """The results of one cell (all its seeds), or of the model itself."""

    title: str
    results: Sequence[dict[str, Any]]

    def cell(self, column: Column) -> str:
        """A mean; of captions (and seeds) with its 95 % interval over captions."""
        _, of, form = column
        found = [of(result) for result in self.results]
        if not found or any(value is None for value in found):
            return ""
        values = np.array(found, float)
        shown = (lambda v: f"{100 * v:.1f}") if form == "%" else (lambda v: format(v, form))
        if values.ndim == 1:  # a number a seed
            return shown(values.mean())
        interval = bootstrap(values.T)  # captions are the units, seeds are averaged
        return f"{shown(interval.mean)} [{shown(interval.low)}, {shown(interval.high)}]"

    @property
    def told(self) -> list[str]:
        """Title, steps, seeds, minutes of training."""
        result = self.results[0]
        minutes = [r["cpu_seconds"] / 60 for r in self.results if "cpu_seconds" in r]
        seeds = ", ".join(str(r["seed"]) for r in self.results if "seed" in r) or "-"
        return [self.title, str(result["steps"]), seeds, f"{np.mean(minutes):.1f}" if minutes else "-"]


def rows_of(group: dict[str, Any], results: Path) -> list[Row]:
    """The model's rows, then those of each cell that has a result."""
    found = []
    for name in group.get("base", ()):
        if (file := results / f"{name}.json").is_file():
            result = read_json_object(file)
            told = f"guidance {result['guidance']:g}" if result["guidance"] else "no guidance"
            found.append(Row(f"the model itself, {told}", [result]))
    for name in group["cells"]:
        files = sorted(results.glob(f"{name}-[0-9].json"))
        if files:
            found.append(Row(f"`{name}`", [read_json_object(file) for file in files]))
    return found


def table(group: dict[str, Any], results: Path) -> str:
    """One group of the grid's file as a table in Markdown."""
    columns = [COLUMNS[name] for name in group["columns"]]
    rows = [[*row.told, *(row.cell(column) for column in columns)] for row in rows_of(group, results)]
    head = ["", "steps", "seeds", "CPU minutes", *(title for title, _, _ in columns)]
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    missing = [name for name in group["cells"] if not list(results.glob(f"{name}-[0-9].json"))]
    note = f"\nNot run: {', '.join(f'`{name}`' for name in missing)}." if missing else ""
    return f"**{group['title']}**\n\n" + "\n".join(lines) + "\n" + note


def tables(grid: dict[str, Any], results: Path) -> str:
    """All of them, with what was run on what."""
    told = [read_json_object(file) for file in sorted(results.glob("*-[0-9].json"))]
    told = [result for result in told if "line" in result]
    if not told:
        return "No cell has a result.\n"
    processors = sorted({f"{r['processor']}, {r['threads']} thread" for r in told})
    seeds = sorted({r["seed"] for r in told})
    minutes = sum(r["cpu_seconds"] for r in told) / 60
    said = f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"**one seed** ({seeds[0]})"
    about = (
        f"{len(told)} results of {len(grid['cell'])} cells, {said}; {minutes:.0f} minutes of training in all "
        f"({'; '.join(processors)}), beside other work, encoding by the first cell of its images among it.\n"
        f"Intervals: 95 %, over captions, seeds of a cell averaged.\n"
    )
    return "\n".join([about, *(f"{table(group, results)}\n" for group in grid["table"])])


def page_with(page: str, made: str) -> str:
    """The page, with what is made between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{made.rstrip()}\n{END}{after}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--check", action="store_true", help="compare only")
    given = parser.parse_args()
    old = PAGE.read_text()
    new = page_with(old, tables(read_toml_file(GRID), given.results))
    if given.check:
        raise SystemExit(old != new)
    PAGE.write_text(new)
