"""The tables of docs/recipes.md, of the results of the grid.

    python -m benchmarks.recipes_table [--check]
    python -m benchmarks.recipes_table --pair lightning-4 base-4-0

Writes what stands between the marks of the page; --check ends with 1 where it is not what the results give.
--pair prints the differences of two cells' (all seeds) or results' figures, caption by caption, with their
intervals.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bundled_loras import SEED, ZOO, smallest
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


def taste(name: str) -> Callable[[dict[str, Any]], Any]:
    """How much the preferred light is drawn."""
    return lambda result: result.get("taste", {}).get(name)


COLUMNS: dict[str, Column] = {
    "right": ("said and drawn, %", figure("right"), "%"),
    "distance": ("distance", figure("distance"), ".3f"),
    "to_real": ("to renders", figure("to_real"), ".3f"),
    "diversity": ("diversity", figure("diversity"), ".2f"),
    "wins": ("wins, %", figure("wins"), "%"),
    "likelihood": ("likelihood", figure("likelihood"), ".3f"),
    "reward": ("reward", figure("reward"), ".3f"),
    "preferred": ("bright where open, %", taste("preferred"), "%"),
    "brighter": ("brighter than the model's, %", taste("wins"), "%"),
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
        """A mean; of captions with its 95 % interval over captions; of several trainings with the least and
        the greatest of theirs."""
        _, of, form = column
        found = [of(result) for result in self.results]
        if not found or any(value is None for value in found):
            return ""
        values = np.array(found, float)
        shown = (lambda v: f"{100 * v:.1f}") if form == "%" else (lambda v: format(v, form))
        each = values.reshape(len(values), -1).mean(1)
        spread = f"; {shown(each.min())} to {shown(each.max())}" if len(each) > 1 else ""
        if values.ndim == 1:  # a number a seed
            return shown(values.mean()) + spread
        interval = bootstrap(values.T)  # captions are the units, seeds are averaged
        return f"{shown(interval.mean)} [{shown(interval.low)}, {shown(interval.high)}]{spread}"

    def told(self, paces: Mapping[str, dict[str, Any]]) -> list[str]:
        """Title, steps, seeds, minutes of a core by the line's pace, or (with one thread on a CPU) as they
        were."""
        result = self.results[0]
        seeds = ", ".join(str(r["seed"]) for r in self.results if "seed" in r) or "-"
        pace = paces.get(result["cell"])
        alone = [r for r in self.results if r.get("threads") == "1" and r.get("device", "cpu") == "cpu"]
        spent = [r["cpu_seconds"] / 60 for r in alone if "cpu_seconds" in r]
        minutes = pace["minutes"] if pace else np.mean(spent) if spent else None
        return [self.title, str(result["steps"]), seeds, "-" if minutes is None else f"{minutes:.1f}"]


def paces_of(results: Path) -> dict[str, dict[str, Any]]:
    """Cell -> its pace, as far as it was timed."""
    return read_json_object(results / "pace.json") if (results / "pace.json").is_file() else {}


def zoo(results: Path) -> str:
    """The bundled LoRAs at each rank that was measured, the one that is kept in bold."""
    columns = [COLUMNS[name] for name in ("right", "likelihood", "distance", "preferred", "black", "white")]
    head = ["system", "rank", *(title for title, _, _ in columns)]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head))]
    for system, cell in ZOO.items():
        file, whole = results / "zoo" / f"{system}.json", results / f"{cell}-{SEED}.json"
        if not file.is_file() or not whole.is_file():
            continue
        ranks, full = read_json_object(file)["ranks"], read_json_object(whole)
        keep = str(smallest(ranks, full)[0])
        rank = full["line"].split("--lora-rank ")[1].split()[0]
        for of, found in [*ranks.items(), (f"{rank} as trained", full)]:
            told = (Row("", [found]).cell(column) for column in columns)
            cells = [f"`{system}`", f"**{of}**" if of == keep else of, *told]
            lines.append("| " + " | ".join(cells) + " |")
    if len(lines) == 2:
        return ""
    return "**The zoo**: what each rank costs; bold is what the package brings.\n\n" + "\n".join(lines) + "\n"


def rows_of(group: dict[str, Any], results: Path) -> list[Row]:
    """The model's rows, then those of each cell that has a result."""
    found = []
    for name in group.get("base", ()):
        if (file := results / f"{name}.json").is_file():
            result = read_json_object(file)
            told = f"guidance {result['guidance']:g}" if result.get("guidance") else "no guidance"
            found.append(Row(result.get("title", f"the model itself, {told}"), [result]))
    for name in group["cells"]:
        files = sorted(results.glob(f"{name}-[0-9].json"))
        if files:
            found.append(Row(f"`{name}`", [read_json_object(file) for file in files]))
    return found


def table(group: dict[str, Any], results: Path) -> str:
    """One group of the grid's file as a table in Markdown."""
    columns, paces = [COLUMNS[name] for name in group["columns"]], paces_of(results)
    rows = [[*row.told(paces), *(row.cell(column) for column in columns)] for row in rows_of(group, results)]
    head = ["", "steps", "seeds", "minutes", *(title for title, _, _ in columns)]
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
    seeds, paces = sorted({r["seed"] for r in told}), paces_of(results)
    said = f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"**one seed** ({seeds[0]})"
    about = (
        f"{len(told)} results of {len(grid['cell'])} cells, {said}; trained and drawn on "
        f"{' and '.join(sorted({r.get('device', 'cpu') for r in told}))}, several at once.\n"
    )
    if paces:
        machines = sorted({f"{pace['processor']}, {pace['threads']} threads" for pace in paces.values()})
        about += (
            f"*minutes*: of one core, for the cell's training (a few steps timed; {'; '.join(machines)}); "
            f"the longest takes {max(p['minutes'] for p in paces.values()):.1f}, "
            "where 15 of two cores are allowed.\n"
        )
    else:
        kinds = sorted({r["processor"] for r in told if r.get("device", "cpu") == "cpu" and "processor" in r})
        about += (
            f"*minutes*: of one core ({', '.join(kinds)}), for the cell's training where it was on one, "
            "beside other work on the same processor.\n"
        )
    about += "Intervals: 95 %, over captions, seeds of a cell averaged."
    about += " Behind them the least and the greatest mean of a seed.\n" if len(seeds) > 1 else "\n"
    return "\n".join([about, *(f"{table(group, results)}\n" for group in grid["table"]), zoo(results)])


def results_of(name: str, results: Path) -> list[dict[str, Any]]:
    """The result of that name, or those of a cell's seeds. Raises SystemExit where there are none."""
    files = sorted(results.glob(f"{name}.json")) or sorted(results.glob(f"{name}-[0-9].json"))
    if not files:
        raise SystemExit(f"no result {name} in {results}: NAME, or NAME-SEED, of a JSON file there")
    return [read_json_object(file) for file in files]


def differences(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> list[str]:
    """One cell's results less another's, a line a figure that all have of each caption: mean and 95 %
    interval of the paired differences over captions, seeds averaged; of several seeds the difference of
    each."""
    found = []
    for kind in ("figures", "taste"):
        own, theirs = ([result.get(kind, {}) for result in some] for some in (one, other))
        for name in (name for name in own[0] if isinstance(own[0][name], list) and name in theirs[0]):
            mine, rival = (np.array([each[name] for each in some], float) for some in (own, theirs))
            line = f"{kind} {name}: {bootstrap(mine.mean(0) - rival.mean(0))}"
            if len(mine) > 1 and len(rival) in (1, len(mine)):
                line += f"; by seed {', '.join(f'{value:.3f}' for value in (mine - rival).mean(1))}"
            found.append(line)
    return found


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
    parser.add_argument("--pair", nargs=2, metavar="RESULT", help="names of two cells, or of two results")
    given = parser.parse_args()
    if given.pair:
        print(*differences(*(results_of(name, given.results) for name in given.pair)), sep="\n")
        raise SystemExit
    old = PAGE.read_text()
    new = page_with(old, tables(read_toml_file(GRID), given.results))
    if given.check:
        raise SystemExit(old != new)
    PAGE.write_text(new)
