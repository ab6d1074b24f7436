"""Cells of the grid as systems that the package brings: their LoRAs at lower ranks, measured, with cards.

    python -m benchmarks.bundled_loras --out runs/grid --measure [--systems shapes-dpo]
    python -m benchmarks.bundled_loras --out runs/grid --pack loras.zip
    python -m benchmarks.bundled_loras --out runs/grid --write

The first measures the LoRA of each system's cell (seed 0) at each rank by the figures of the grid
(RESULTS/zoo/SYSTEM.json); several processes share the systems. The second packs the LoRAs of the largest of
those ranks, in float16, whose truncations the lower ones are. The last writes the smallest LoRA that costs
no quality, with a card, to the bundled weights: what is drawn right, its likelihood, the distance to the
model in many steps and what the cell was trained for (`CHECKED`) are no worse than at the full rank, by the
paired intervals. Where lower ranks were not measured it writes the rank that was trained.
"""

import argparse
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from activation_store.files import write_json, write_text
from benchmarks.grid_workers import claimed
from benchmarks.recipe_figures import Pictures, figures
from benchmarks.recipe_plain import PLAIN_SEEDS, plain_brightness
from benchmarks.recipe_taste import taste_chances, taste_figures
from benchmarks.recipes_grid import GRID, RESULTS, Grid, device_name, processor
from unbox.models import load
from unbox.models.hub import bundled_folder
from unbox.models.model import Model
from unbox.recipes.systems.smaller_lora import write_smaller
from unbox.statistics import bootstrap
from unbox.text_files import read_json_object, read_toml_file

#: System -> the cell that it is of.
ZOO = {
    **{f"shapes-lightning-{steps}step": f"lightning-{steps}" for steps in (1, 2, 4, 8)},
    "shapes-v3": "novelai-floor-0",
    "shapes-v3-floor-1": "novelai-floor-1",
    "shapes-dpo": "taste-dpo-100",
    "shapes-ncp-dpo": "taste-ncp-dpo-paper-beta",
    "shapes-ncp-cpo": "taste-ncp-cpo",
    "shapes-ncp-sft": "taste-ncp-sft",
    "shapes-distar": "distar-reward-100",
}
RANKS = (4, 8, 16)
SEED = 0
#: Kind and name of the figures in which a lower rank must be no worse, whether more is better, and what is
#: let pass: a thousandth of a unit of distance, less than half of what three trainings of a cell differ by;
#: a hundredth of brightness.
CHECKED = (
    ("figures", "right", 1, 0.0), ("figures", "likelihood", 1, 0.0), ("figures", "distance", -1, 0.001),
    ("taste", "preferred", 1, 0.0), ("plain", "black", -1, 0.01), ("plain", "white", 1, 0.01),
)  # fmt: skip
#: Columns of the card; those that no row has are left out.
SHOWN = {
    ("figures", "right"): "said and drawn",
    ("taste", "preferred"): "bright where open",
    ("plain", "black"): "black",
    ("plain", "white"): "white",
    ("figures", "distance"): "distance",
    ("figures", "diversity"): "diversity",
    ("figures", "likelihood"): "likelihood",
    ("figures", "to_real"): "to renders",
}

CARD = """---
license: apache-2.0
pipeline_tag: text-to-image
---
# {system}

A LoRA of rank {keep} (float16, {size:,} bytes) over the bundled `shapes-base`; `unbox models {system}` has
its steps. The figures are of pictures in {steps} step{s} {guided}.

    unbox generate --model {system} --prompt "a large solid red square in the center" --out square.png

Made by the cell `{cell}`, seed {seed}, of the grid of recipes (`docs/recipes.md`):

    {line}

at rank {full}{lowered}. {captions} held-out captions, figures as that page
explains them; brackets: 95 % over captions. ({where})

| | {heads} |
| --- | {rules} |
{rows}

{choice} Only Shapes was ever drawn by it.
"""


def row(title: str, result: dict[str, Any], shown: Sequence[tuple[str, str]]) -> str:
    """A line of the card's table."""
    cells = []
    for kind, name in shown:
        values = np.atleast_1d(np.array(result.get(kind, {}).get(name, []), float))
        one = bootstrap(values) if len(values) > 1 else None
        cells.append("" if not len(values) else f"{values[0]:.3f}" if one is None else str(one))
    return f"| {title} | {' | '.join(cells)} |"


def no_worse(found: dict[str, Any], full: dict[str, Any]) -> bool:
    """Whether a result is no worse than that of the full rank in all of `CHECKED` that both have, by the 95 %
    intervals of the paired differences."""
    for kind, name, sign, allowed in CHECKED:
        own, whole = (result.get(kind, {}).get(name) for result in (found, full))
        if own is not None and whole is not None:
            better = bootstrap(sign * (np.array(own, float) - np.array(whole, float)))
            if better.high < -allowed:
                return False
    return True


def smallest(ranks: dict[str, dict[str, Any]], full: dict[str, Any]) -> tuple[int, bool]:
    """The smallest rank that is no worse, and whether there is one; without one the largest."""
    good = [int(rank) for rank, found in ranks.items() if no_worse(found, full)]
    return (min(good), True) if good else (max(map(int, ranks)), False)


def measure(grid: Grid, system: str) -> None:
    """Lower a system's LoRA to each rank and measure it there."""
    cell = f"{ZOO[system]}-{SEED}"
    told, model = read_json_object(grid.results / f"{cell}.json"), grid.asked["model"]
    own, measured = load(model).system, dict[str, Any]()
    most, rival = grid.base(own.steps, own.guidance), grid.base(told["steps"], told["guidance"])
    lora = grid.out / cell / "lora"
    for rank in RANKS:
        place = write_smaller(lora, grid.out / "zoo" / system / f"lora-{rank}", rank)
        row = str(lora / "system.json")
        lowered = load(model, lora=place, system=row, device=grid.device, dtype="float32")
        found = Pictures.drawn(lowered, grid.captions, told["steps"], told["guidance"])
        measured[str(rank)] = {"figures": figures(found, most, grid.captions, rival)}
        if "plain" in told:
            measured[str(rank)]["plain"] = plain_brightness(lowered, PLAIN_SEEDS, told["steps"])
        if "taste" in told:
            measured[str(rank)]["taste"] = taste_of(grid, lowered, told, place.with_name(f"taste-{rank}.npz"))
    facts = {"processor": processor(), "threads": os.environ.get("OMP_NUM_THREADS", "all")}
    about = {"system": system, "cell": ZOO[system], "seed": SEED, **facts, "device": device_name(lowered)}
    write_json(grid.results / "zoo" / f"{system}.json", {**about, "ranks": measured})


def taste_of(grid: Grid, model: Model, told: dict[str, Any], file: Path) -> dict[str, list[float]]:
    """How much a model draws what a cell preferred, as the cell's own result has it."""
    steps, guidance = told["steps"], told["guidance"]
    chances = taste_chances(file, model, steps, guidance)
    return taste_figures(chances, grid.base_taste(steps, guidance))


def pack(grid: Grid, systems: Sequence[str], file: Path) -> None:
    """The LoRAs of the largest rank in one file."""
    with zipfile.ZipFile(file, "w") as packed:
        for system in systems:
            place = grid.out / "zoo" / system / f"lora-{max(RANKS)}"
            if not place.is_dir():
                write_smaller(grid.out / f"{ZOO[system]}-{SEED}" / "lora", place, max(RANKS))
            for each in sorted(place.glob("*.safetensors")):
                packed.write(each, f"zoo/{system}/{place.name}/{each.name}")


def plain_rows(grid: Grid, told: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The model itself in as many steps, without guidance and with its own: titles and results, those with
    what the cell was trained for where they are there."""
    steps, own, kind = told["steps"], load(grid.asked["model"]).system.guidance, told_of(told)
    found = []
    for guidance, title in ((0.0, "no guidance"), (own, f"guidance {own:g}")):
        name = f"base-{steps}-{guidance:g}"
        files = [grid.results / f"{each}.json" for each in (f"{name}-{kind}", name)]
        if file := next((file for file in files if file.is_file()), None):
            title = f"`shapes-base` in {steps} step{'s' * (steps > 1)}, {title}"
            found.append((title, read_json_object(file)))
    return found


def told_of(told: dict[str, Any]) -> str:
    """Which figures a cell's result has of what it was trained for."""
    return next((kind for kind in ("taste", "plain") if kind in told), "figures")


def write(grid: Grid, system: str, bundled: Path) -> str:
    """The chosen rank and its card, into a folder; says what was written."""
    cell = f"{ZOO[system]}-{SEED}"
    told = read_json_object(grid.results / f"{cell}.json")
    file = grid.results / "zoo" / f"{system}.json"
    zoo: dict[str, Any] = read_json_object(file) if file.is_file() else {"ranks": {}}
    steps, drawn_on = told["steps"], told.get("device", "cpu")
    full = told["line"].split("--lora-rank ")[1].split()[0]
    keep, good = smallest(zoo["ranks"], told) if zoo["ranks"] else (int(full), True)
    shutil.rmtree(bundled, ignore_errors=True)
    write_smaller(grid.out / cell / "lora", bundled, keep)
    shown = [column for column in SHOWN if column[1] in told.get(column[0], {})]
    rows = [row(title, result, shown) for title, result in plain_rows(grid, told)]
    rows.append(row(f"as it was trained, rank {full}", told, shown))
    rows += [row(f"at rank {rank}", found, shown) for rank, found in zoo["ranks"].items()]
    choice = (
        "In float16 otherwise as it was trained; lower ranks were not measured."
        if not zoo["ranks"]
        else f"Rank {keep} is the smallest that costs no quality: what is drawn right, the likelihood, the "
        "distance (by a thousandth) and what was trained for are no worse than at the full rank, by the "
        "paired intervals."
        if good
        else f"Each of these ranks costs some quality; {keep}, the largest of them, is what is kept."
    )
    card = CARD.format(
        system=system, keep=keep, steps=steps, s="s" * (steps > 1), cell=ZOO[system], seed=SEED, full=full,
        size=sum(file.stat().st_size for file in bundled.glob("*.safetensors")),
        guided=f"with guidance {told['guidance']:g}" if told["guidance"] else "without guidance",
        line=told["line"], captions=grid.asked["captions"], choice=choice,
        where=f"trained on {drawn_on}, measured on {zoo.get('device', drawn_on)}",
        lowered=", and lowered by the SVD of each layer" if zoo["ranks"] else "",
        heads=" | ".join(SHOWN[column] for column in shown), rules=" | ".join(["---"] * len(shown)),
        rows="\n".join(rows),
    )  # fmt: skip
    write_text(bundled / "README.md", card)
    return f"{system}: rank {keep}{'' if good else ' (costs quality)'}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the grid's runs")
    parser.add_argument("--grid", type=Path, default=GRID)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--systems", nargs="*", choices=ZOO, default=list(ZOO))
    parser.add_argument("--device")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--pack", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    grid = Grid(read_toml_file(given.grid), given.out.absolute(), given.results, given.device)
    (given.results / "zoo").mkdir(parents=True, exist_ok=True)
    there = [name for name in given.systems if (given.results / f"{ZOO[name]}-{SEED}.json").is_file()]
    for system in there if given.measure else ():
        with claimed(grid.out, f"zoo-{system}") as own:
            if own and not (given.results / "zoo" / f"{system}.json").is_file():
                measure(grid, system)
    if given.pack:
        pack(grid, there, given.pack)
    for system in there if given.write else ():
        print(write(grid, system, bundled_folder(f"bundled:{system}")))


if __name__ == "__main__":
    main()
