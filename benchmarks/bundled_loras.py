"""A cell of the grid as a system that the package brings: its LoRA at a lower rank, measured, with a card.

    python -m benchmarks.bundled_loras --out runs/grid --cell lightning-4 --system NAME --keep 8

Measures the cell's LoRA at each rank by the figures of the grid (RESULTS/SYSTEM.json), and writes that of the
rank that is kept, in float16, with a card, to the bundled weights.
"""

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from activation_store.files import write_json, write_text
from benchmarks.recipe_figures import Pictures, figures
from benchmarks.recipes_grid import GRID, RESULTS, Grid, processor
from unbox.models import load
from unbox.models.hub import bundled_folder
from unbox.recipes.systems.smaller_lora import write_smaller
from unbox.statistics import bootstrap
from unbox.text_files import read_json_object, read_toml_file

SHOWN = {"right": "said and drawn", "distance": "distance", "diversity": "diversity", "to_real": "to renders"}

CARD = """---
license: apache-2.0
pipeline_tag: text-to-image
---
# {system}

A LoRA of rank {keep} (float16, {size:,} bytes) over the bundled `shapes-turbo`, sampled in {steps} step{s}
without guidance.

    unbox generate --model {system} --prompt "a large solid red square in the center" --out square.png

Made by the cell `{cell}`, seed {seed}, of the grid of recipes (`docs/recipes.md`), one seed:

    {line}

at rank {full}, and lowered by the SVD of each layer. Figures as that page explains them, 64 held-out
captions; brackets: 95 % over captions. ({processor}, {threads} thread.)

| | {heads} |
| --- | {rules} |
{rows}

Only Shapes was ever drawn by it.
"""


def row(title: str, found: dict[str, Any]) -> str:
    """A line of the card's table."""
    cells = []
    for name in SHOWN:
        values = np.atleast_1d(np.array(found[name], float))
        cells.append(str(bootstrap(values)) if len(values) > 1 else f"{values[0]:.3f}")
    return f"| {title} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the grid's runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--cell", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--system", required=True, help="what it is called")
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--keep", type=int, required=True)
    given = parser.parse_args()
    grid = Grid(read_toml_file(GRID), given.out, given.results)
    run, result = given.out / f"{given.cell}-{given.seed}", given.results / f"{given.cell}-{given.seed}.json"
    told = read_json_object(result)
    model = grid.asked["model"]
    own = load(model).system
    most, rival = grid.base(own.steps, own.guidance), grid.base(told["steps"], told["guidance"])
    measured: dict[str, Any] = {}
    for rank in sorted({*given.ranks, given.keep}):
        place = write_smaller(run / "lora", run / f"lora-{rank}", rank)
        lowered = load(model, lora=place, system=str(run / "lora" / "system.json"))
        found = Pictures.drawn(lowered, grid.captions, told["steps"], told["guidance"])
        measured[str(rank)] = figures(found, most, grid.captions, rival)
    facts = {"processor": processor(), "threads": os.environ.get("OMP_NUM_THREADS", "all")}
    about = {"system": given.system, "cell": given.cell, "seed": given.seed, **facts}
    write_json(given.results / f"{given.system}.json", {**about, "ranks": measured})
    bundled = bundled_folder(f"bundled:{given.system}")
    shutil.copytree(run / f"lora-{given.keep}", bundled, dirs_exist_ok=True)
    base = read_json_object(given.results / f"base-{told['steps']}-0.json")["figures"]
    guided = read_json_object(given.results / f"base-{told['steps']}-{own.guidance:g}.json")["figures"]
    rows = [
        row(f"the model itself in {told['steps']} steps, no guidance", base),
        row(f"the same, guidance {own.guidance:g}", guided),
        row("this LoRA as it was trained", told["figures"]),
        *(row(f"at rank {rank}", found) for rank, found in measured.items()),
    ]
    size = sum(file.stat().st_size for file in bundled.glob("*.safetensors"))
    line = told["line"].split("--data")[0] + "..." if len(told["line"]) > 400 else told["line"]
    full = told["line"].split("--lora-rank ")[1].split()[0]
    text = CARD.format(
        system=given.system, keep=given.keep, size=size, steps=told["steps"], s="s" * (told["steps"] > 1),
        cell=given.cell, seed=given.seed, line=line, full=full, heads=" | ".join(SHOWN.values()),
        rules=" | ".join(["---"] * len(SHOWN)), rows="\n".join(rows), **facts,
    )  # fmt: skip
    write_text(bundled / "README.md", text)


if __name__ == "__main__":
    main()
