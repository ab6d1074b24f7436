"""The grid of the systems' recipes on Shapes: trains each cell that has no result, and measures it.

    python -m benchmarks.recipes_grid --out runs/grid [--cells ncp-dpo dpo] [--seeds 0] [--dry-run]
    python -m benchmarks.recipes_grid --out runs/grid --workers 8 --threads 2 --minutes 60
    python -m benchmarks.recipes_grid --out runs/pace --pace --device cpu

Seed by seed, in the order of the file: the first seed of every cell, then the second. Every cell and seed
leaves RESULTS/NAME-SEED.json, and the same line goes on; with --workers several processes share the cells.
--pace trains none of them: it times a few steps of each line, and writes RESULTS/pace.json. Judged by a
reader of factors that no recipe learns from, on held-out captions; the model itself stands beside them in as
many steps, with and without guidance (RESULTS/base-...json). `python -m benchmarks.recipes_table` makes the
tables of docs/recipes.md of them.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from activation_store.files import write_json
from benchmarks.grid_workers import claimed, linked, run_workers, waited
from benchmarks.recipe_figures import Asked, Pictures, figures
from benchmarks.recipe_plain import PLAIN_SEEDS, VAE_ROW, plain_brightness, plain_images, plain_round_trip
from benchmarks.recipe_taste import taste_chances, taste_figures, taste_images
from unbox.cli.main import main as command
from unbox.models import load
from unbox.models.model import Model
from unbox.text_files import read_json_object, read_toml_file

ROOT = Path(__file__).parents[1]
GRID = ROOT / "examples" / "recipes" / "grid.toml"
RESULTS = ROOT / "benchmarks" / "results" / "recipes"


@dataclass(frozen=True)
class Cell:
    """A recipe's line with a seed."""

    name: str
    line: str
    seed: int
    data: str = "shapes"
    """`shapes`; `plain`: a folder of scenes, some of which are all black or all white; or `taste`: pairs
    of which the bright one is preferred, where `--losers shapes` of the line stands for the others."""
    judged_steps: int | None = None
    """Steps of the pictures that are judged; None: those of the result's row."""
    judged_guidance: float | None = None
    """Their guidance; None: that of the result's row."""

    @property
    def file(self) -> str:
        """Of its result."""
        return f"{self.name}-{self.seed}.json"

    def words(
        self, model: str, common: str, out: Path, caches: Path | None = None, device: str | None = None
    ) -> list[str]:
        """What is typed after `unbox`. Cells of the same images share their cache, in `caches` (or `out`)."""
        recipe, *own = shlex.split(self.line)
        shared = shlex.split(common)
        if self.data != "shapes":
            at = shared.index("--data")
            shared[at : at + 2] = ["--data", str(out / self.data), "--square"]
        if self.data == "taste" and "--losers" in own:
            own[own.index("--losers") + 1] = str(out / "taste-losers")
        given = ["--model", model, "--seed", str(self.seed), *(["--device", device] if device else [])]
        given += ["--cache", str((caches or out) / f"cache-{self.data}")]
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


def trained(place: Path, base: str, device: str | None = None) -> Model:
    """What a recipe left."""
    if (place / "model").is_dir():
        return load(place / "model", device=device, dtype="float32")
    row = place / "lora" / "system.json"  # `recipe sdxl` leaves none: sampled as its base
    system = str(row) if row.is_file() else None
    return load(base, lora=place / "lora", system=system, device=device, dtype="float32")


@dataclass(frozen=True)
class Grid:
    """Where a grid is run and its results are written."""

    asked: dict[str, Any]
    """The grid's file."""
    out: Path
    results: Path
    device: str | None = None
    """Of every model; None: the first accelerator that is here."""
    caches: Path | None = None
    """This process's own links to the caches; None: the caches in `out`."""

    @property
    def captions(self) -> Asked:
        """What every model draws."""
        return Asked.of(self.asked["captions"])

    def words(self, cell: Cell) -> list[str]:
        """What is typed after `unbox`."""
        return cell.words(self.asked["model"], self.asked["common"], self.out, self.caches, self.device)

    def base(self, steps: int, guidance: float) -> Pictures:
        """The model's own pictures; their figures are written too, as `base-STEPS-GUIDANCE.json`."""
        name = f"base-{steps}-{guidance:g}"
        with waited(self.out, name):
            model = load(self.asked["model"], device=self.device, dtype="float32")
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

    def measure(self, cell: Cell, words: list[str], spent: dict[str, Any]) -> dict[str, Any]:
        """A trained cell's result; `spent`: its seconds."""
        model = trained(self.out / f"{cell.name}-{cell.seed}", self.asked["model"], self.device)
        own, steps = load(self.asked["model"]).system, cell.judged_steps or model.system.steps
        guidance = model.system.guidance if cell.judged_guidance is None else cell.judged_guidance
        found = Pictures.kept(
            self.out / f"{cell.name}-{cell.seed}.npz", model, self.captions, steps, guidance
        )
        without = self.base(steps, 0.0)
        same = self.base(steps, guidance) if guidance else without
        self.base(steps, own.guidance)
        most = self.base(own.steps, own.guidance)
        said = shlex.join(words).replace(str(self.caches or self.out), "OUT").replace(str(self.out), "OUT")
        told: dict[str, Any] = {"cell": cell.name, "seed": cell.seed, "line": f"unbox {said}"}
        told |= {"steps": steps, "guidance": guidance, **spent}
        told |= {"processor": processor(), "threads": os.environ.get("OMP_NUM_THREADS", "all")}
        told |= {"device": device_name(model)}
        told |= {"figures": figures(found, most, self.captions, same)}
        if cell.data == "plain":
            told["plain"] = plain_brightness(model, PLAIN_SEEDS, steps)
            self.plain_limits(steps)
        if cell.data == "taste":
            chances = taste_chances(self.out / f"taste-{cell.name}-{cell.seed}.npz", model, steps, guidance)
            told["taste"] = taste_figures(chances, self.base_taste(steps, guidance))
        return told

    def plain_limits(self, steps: int) -> None:
        """Of black and white pictures: those of the model itself, and what its VAE makes of given ones, as
        rows of the table."""
        with waited(self.out, "plain-limits"):
            model = load(self.asked["model"], device=self.device, dtype="float32")
            rows = {
                f"base-{steps}-{model.system.guidance:g}": lambda: plain_brightness(
                    model, PLAIN_SEEDS, steps
                ),
                "vae": lambda: plain_round_trip(model),
            }
            for name, of in rows.items():
                if not (file := self.results / f"{name}-plain.json").is_file():
                    whole = self.results / f"{name}.json"
                    told = read_json_object(whole) if whole.is_file() else VAE_ROW
                    write_json(file, {**told, "plain": of()})

    def base_taste(self, steps: int, guidance: float) -> np.ndarray:
        """The judge's chances of each light in the model's own pictures; a row of the table with them."""
        name = f"base-{steps}-{guidance:g}"
        with waited(self.out, f"{name}-taste"):
            model = load(self.asked["model"], device=self.device, dtype="float32")
            found = taste_chances(self.out / f"{name}-taste.npz", model, steps, guidance)
            if not (file := self.results / f"{name}-taste.json").is_file():
                told = read_json_object(self.results / f"{name}.json")
                own = {"preferred": taste_figures(found, found)["preferred"]}
                write_json(file, {**told, "taste": own})
        return found

    def run(self, cells: Sequence[Cell], dry_run: bool) -> None:
        """Train and measure the cells that have no result and that no other process has. Raises SystemExit,
        at the end, for cells that did not come to theirs, and at once where a stop was asked."""
        failed: list[str] = []
        for cell in cells:
            if (self.results / cell.file).is_file():
                continue
            if dry_run:
                print("unbox", shlex.join(self.words(cell)), flush=True)
                continue
            with claimed(self.out, f"{cell.name}-{cell.seed}") as own:
                if not own or (self.results / cell.file).is_file():
                    continue
                code = self.run_cell(cell)
            if code > 128:
                raise SystemExit(code)
            if code:
                failed.append(cell.name)
        if failed:
            raise SystemExit(f"did not end: {', '.join(failed)}")

    def run_cell(self, cell: Cell) -> int:
        """Train and measure one; the command's exit code."""
        words = self.words(cell)
        print("unbox", shlex.join(words), flush=True)
        self.write_images(cell.data)
        start, began = time.process_time(), time.monotonic()
        file = self.out / f"{cell.name}-{cell.seed}" / "cpu_seconds.json"
        if (code := command(words)) != 0:
            return code
        if not file.is_file():  # a stop between training and measuring
            spent = {"cpu_seconds": time.process_time() - start, "wall_seconds": time.monotonic() - began}
            write_json(file, {name: round(value, 1) for name, value in spent.items()})
        result = self.measure(cell, words, read_json_object(file))
        write_json(self.results / cell.file, result)
        means = {name: float(np.mean(value)) for name, value in result["figures"].items()}
        print(cell.name, cell.seed, {name: round(value, 3) for name, value in means.items()}, flush=True)
        return 0

    def prepare(self, cells: Sequence[Cell]) -> None:
        """Make the caches of the cells' images by a step that is thrown away."""
        for data in sorted({cell.data for cell in cells}):
            done = self.out / f"cache-{data}.json"
            if done.is_file():
                continue
            line = "ncp --losers shapes --space output" if data != "plain" else "ncp --objective sft"
            line += " --max-train-steps 1 --gradient-accumulation-steps 1"
            if self.run_prepared(Cell(f"cache-of-{data}", line, 0, data)) != 0:
                raise SystemExit(f"no cache of {data} could be made")
            write_json(done, {})

    def run_prepared(self, cell: Cell) -> int:
        """Train a cell that is not measured."""
        self.write_images(cell.data)
        return command(self.words(cell))

    def write_images(self, data: str) -> None:
        """The folders of a cell's images, where they are not drawn as they are needed."""
        if data == "plain":
            plain_images(self.out / "plain", self.asked["plain_images"], load(self.asked["model"]).size)
        if data == "taste":
            side, count = load(self.asked["model"]).size, self.asked["plain_images"]
            taste_images(self.out / "taste", self.out / "taste-losers", count, side)

    def linked(self, worker: int) -> "Grid":
        """The same with links to the caches for one of several processes."""
        place = self.out / f"worker-{worker}"
        place.mkdir(exist_ok=True)
        for cache in sorted(self.out.glob("cache-*/cache.json")):
            linked(cache.parent, place / cache.parent.name)
        return replace(self, caches=place)

    def pace(self, cells: Sequence[Cell]) -> None:
        """Time a few steps of each cell's line: RESULTS/pace.json has the seconds of a core that a step takes
        (of each of its stages, added), and the whole line's minutes of a core. Other work beside it is not in
        them, but for what it takes of caches and memory."""
        for cell in cells:
            with claimed(self.out, f"pace-{cell.name}") as own:
                if not own or cell.name in self.paces():
                    continue
                seconds = []
                for steps in (1, *PACED):
                    short = replace(cell, name=f"pace-{cell.name}-{steps}", line=shorter(cell.line, steps))
                    began = time.process_time()
                    if self.run_prepared(short) != 0:
                        raise SystemExit(f"{cell.name} did not end")
                    seconds.append(time.process_time() - began)
            each = (seconds[2] - seconds[1]) / (PACED[1] - PACED[0])
            whole = seconds[1] + (max_steps(cell.line) - PACED[0]) * each
            told = {"seconds_a_step": round(each, 3), "minutes": round(whole / 60, 2)}
            told |= {"processor": processor(), "threads": os.environ.get("OMP_NUM_THREADS", "all")}
            with waited(self.out, "pace"):
                write_json(self.results / "pace.json", {**self.paces(), cell.name: told})

    def paces(self) -> dict[str, Any]:
        """Those that were timed."""
        file = self.results / "pace.json"
        return read_json_object(file) if file.is_file() else {}


#: Steps of the two short runs whose difference is timed, after one that warms up; and their images.
PACED, PACED_IMAGES = (2, 8), 64


def limited(line: str, images: int) -> str:
    """The same options with fewer images."""
    words = shlex.split(line)
    words[words.index("--limit") + 1] = str(images)
    return shlex.join(words)


def max_steps(line: str) -> int:
    """Steps of each stage of a line."""
    words = shlex.split(line)
    return int(words[words.index("--max-train-steps") + 1])


def shorter(line: str, steps: int) -> str:
    """The same line with other steps."""
    words = shlex.split(line)
    words[words.index("--max-train-steps") + 1] = str(steps)
    return shlex.join(words)


def device_name(model: Model) -> str:
    """Where a model computes."""
    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "cpu"


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
    parser.add_argument("--pace", action="store_true", help="time a few steps of each line alone")
    parser.add_argument("--device", help="cpu or cuda; an accelerator that is here if none is named")
    parser.add_argument("--workers", type=int, default=0, help="processes that share the cells")
    parser.add_argument("--threads", type=int, default=2, help="threads, and processors, of each")
    parser.add_argument("--minutes", type=float, help="stop after so long; the same line goes on")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    asked = read_toml_file(given.grid)
    if given.pace:  # how many images there are changes nothing of a step
        asked["common"] = limited(asked["common"], PACED_IMAGES)
        asked["plain_images"] = PACED_IMAGES
    for folder in (given.out, given.results):
        folder.mkdir(parents=True, exist_ok=True)
    grid = Grid(asked, given.out.absolute(), given.results, given.device)
    cells = cells_of(asked, given.cells, given.seeds)
    if given.workers and given.worker is None and not given.dry_run:
        began = time.monotonic()
        grid.prepare(cells)
        left = None if given.minutes is None else given.minutes - (time.monotonic() - began) / 60
        raise SystemExit(
            run_workers(["-m", "benchmarks.recipes_grid", *sys.argv[1:]], given.workers, given.threads, left)
        )
    if given.worker is not None:
        grid = grid.linked(given.worker)
    if given.pace:
        grid.pace(cells[: len({cell.name for cell in cells})])
    else:
        grid.run(cells, given.dry_run)
