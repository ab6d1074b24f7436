"""The grid of the systems' recipes on Shapes: trains each cell that has no result, and measures it.

    python -m benchmarks.recipes_grid --out runs/grid [--cells ncp-dpo dpo] [--seeds 0] [--dry-run]

Seed by seed, in the order of the file: the first seed of every cell, then the second. Every cell and seed
leaves RESULTS/NAME-SEED.json, and the same line goes on. Judged by a reader of factors that no recipe learns
from, on held-out captions; the model itself stands beside them in as many steps, with and without guidance
(RESULTS/base-...json). `python -m benchmarks.recipes_table` makes the tables of docs/recipes.md of them.
"""

import argparse
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from activation_store.files import write_json
from benchmarks.recipe_figures import PLAIN, Asked, Pictures, figures, plain_brightness
from unbox.cli.main import main as command
from unbox.models import load
from unbox.models.model import Model
from unbox.shapes import caption, sample_scene, scene_rng
from unbox.shapes.render_torch import draw
from unbox.shapes.scene_table import SceneTable
from unbox.text_files import read_json_object, read_toml_file

ROOT = Path(__file__).parents[1]
GRID = ROOT / "examples" / "recipes" / "grid.toml"
RESULTS = ROOT / "benchmarks" / "results" / "recipes"
#: Of the images of `data = "plain"`, the share that is all black, and the share that is all white.
PLAIN_SHARE = 0.1


@dataclass(frozen=True)
class Cell:
    """A recipe's line with a seed."""

    name: str
    line: str
    seed: int
    data: str = "shapes"
    """`shapes`, or `plain`: a folder of scenes, some of which are all black or all white."""
    judged_steps: int | None = None
    """Steps of the pictures that are judged; None: those of the result's row."""

    @property
    def file(self) -> str:
        """Of its result."""
        return f"{self.name}-{self.seed}.json"

    def words(self, model: str, common: str, out: Path) -> list[str]:
        """What is typed after `unbox`. Cells of the same images share their cache."""
        recipe, *own = shlex.split(self.line)
        shared = shlex.split(common)
        data = ["--data", str(out / self.data)] if self.data == "plain" else []
        if data:
            at = shared.index("--data")
            shared[at : at + 2] = [*data, "--square"]
        given = ["--model", model, "--seed", str(self.seed), "--cache", str(out / f"cache-{self.data}")]
        return ["recipe", recipe, *shared, *own, *given, "--out", str(out / f"{self.name}-{self.seed}")]


def cells_of(grid: dict[str, Any], names: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Cell]:
    """The cells of a grid, or those named, of all seeds or some: seed by seed, in the order of the file (of
    the names). Raises SystemExit for a name or seed that is not there."""
    rows = {row["name"]: row for row in grid["cell"]}
    if wrong := [
        str(each)
        for each in [*(n for n in names if n not in rows), *(s for s in seeds if s not in grid["seeds"])]
    ]:
        raise SystemExit(
            f"no cell or seed {', '.join(wrong)}; cells: {', '.join(rows)}; seeds: {grid['seeds']}"
        )
    return [Cell(seed=seed, **rows[name]) for seed in seeds or grid["seeds"] for name in names or rows]


def plain_images(folder: Path, count: int, side: int) -> None:
    """Scenes with their captions; a tenth of them is all black under a caption that says so, a tenth all
    white. Files that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        if (text := folder / f"{i:06d}.txt").is_file():
            continue
        rng = scene_rng(7, i, "train")
        scene = sample_scene(rng, "train")
        said, _ = caption(scene, rng, "train")
        pixels = draw(SceneTable.of([scene]), side).pictures[0].permute(1, 2, 0).numpy()
        chance = rng.random()
        if chance < 2 * PLAIN_SHARE:
            said = PLAIN["black" if chance < PLAIN_SHARE else "white"]
            pixels = np.full_like(pixels, chance >= PLAIN_SHARE)
        Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(folder / f"{i:06d}.png")
        text.write_text(said)


def trained(place: Path, base: str) -> Model:
    """What a recipe left."""
    if (place / "model").is_dir():
        return load(place / "model")
    row = place / "lora" / "system.json"  # `recipe sdxl` leaves none: sampled as its base
    return load(base, lora=place / "lora", system=str(row) if row.is_file() else None)


@dataclass(frozen=True)
class Grid:
    """Where a grid is run and its results are written."""

    asked: dict[str, Any]
    """The grid's file."""
    out: Path
    results: Path

    @property
    def captions(self) -> Asked:
        """What every model draws."""
        return Asked.of(self.asked["captions"])

    def base(self, steps: int, guidance: float) -> Pictures:
        """The model's own pictures; their figures are written too, as `base-STEPS-GUIDANCE.json`."""
        name = f"base-{steps}-{guidance:g}"
        model = load(self.asked["model"])
        found = Pictures.kept(self.out / f"{name}.npz", model, self.captions, steps, guidance)
        if not (file := self.results / f"{name}.json").is_file():
            own = model.system
            most = (
                found
                if steps == own.steps and guidance == own.guidance
                else self.base(own.steps, own.guidance)
            )
            told: dict[str, Any] = {"cell": "base", "steps": steps, "guidance": guidance}
            write_json(file, told | {"figures": figures(found, most, self.captions)})
        return found

    def measure(self, cell: Cell, words: list[str], seconds: float) -> dict[str, Any]:
        """A trained cell's result."""
        model = trained(self.out / f"{cell.name}-{cell.seed}", self.asked["model"])
        own, steps = load(self.asked["model"]).system, cell.judged_steps or model.system.steps
        guidance = model.system.guidance
        found = Pictures.kept(
            self.out / f"{cell.name}-{cell.seed}.npz", model, self.captions, steps, guidance
        )
        without = self.base(steps, 0.0)
        same = self.base(steps, guidance) if guidance else without
        self.base(steps, own.guidance)
        most = self.base(own.steps, own.guidance)
        said = shlex.join(words).replace(str(self.out), "OUT")
        told: dict[str, Any] = {"cell": cell.name, "seed": cell.seed, "line": f"unbox {said}"}
        told |= {"steps": steps, "guidance": guidance, "cpu_seconds": round(seconds, 1)}
        told |= {"processor": processor(), "threads": os.environ.get("OMP_NUM_THREADS", "all")}
        told |= {"figures": figures(found, most, self.captions, same)}
        if cell.data == "plain":
            told["plain"] = plain_brightness(model, 4, steps)
        return told

    def run(self, cells: Sequence[Cell], dry_run: bool) -> None:
        """Train and measure the cells that have no result. Raises SystemExit, at the end, for cells that did
        not come to theirs."""
        failed: list[str] = []
        for cell in cells:
            if (self.results / cell.file).is_file():
                continue
            words = cell.words(self.asked["model"], self.asked["common"], self.out)
            print("unbox", shlex.join(words), flush=True)
            if dry_run:
                continue
            if cell.data == "plain":
                plain_images(self.out / "plain", self.asked["plain_images"], load(self.asked["model"]).size)
            start, spent = time.process_time(), self.out / f"{cell.name}-{cell.seed}" / "cpu_seconds.json"
            if command(words) != 0:
                failed.append(cell.name)
                continue
            if not spent.is_file():  # a stop between training and measuring
                write_json(spent, {"seconds": time.process_time() - start})
            result = self.measure(cell, words, float(read_json_object(spent)["seconds"]))
            write_json(self.results / cell.file, result)
            means = {name: float(np.mean(value)) for name, value in result["figures"].items()}
            print({name: round(value, 3) for name, value in means.items()}, flush=True)
        if failed:
            raise SystemExit(f"did not end: {', '.join(failed)}")


def processor() -> str:
    """What this machine's processor calls itself."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", type=Path, default=GRID)
    parser.add_argument("--out", type=Path, required=True, help="folder for caches, runs and pictures")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder for a small JSON a cell and seed"
    )
    parser.add_argument("--cells", nargs="*", default=[], help="these cells alone, in this order")
    parser.add_argument("--seeds", nargs="*", type=int, default=[], help="these seeds alone")
    parser.add_argument("--dry-run", action="store_true", help="print the lines and end")
    given = parser.parse_args()
    asked = read_toml_file(given.grid)
    for folder in (given.out, given.results):
        folder.mkdir(parents=True, exist_ok=True)
    Grid(asked, given.out, given.results).run(cells_of(asked, given.cells, given.seeds), given.dry_run)
