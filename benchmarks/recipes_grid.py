"""The grid of the systems' recipes on Shapes: trains each cell that has no result, and measures it.

    python -m benchmarks.recipes_grid --out runs/grid [--only ncp] [--dry-run]

Every cell and seed leaves OUT/NAME-SEED.json; the same line goes on. Judged by a reader of factors that no
recipe learns from, on held-out captions; the model itself stands beside them, in the cell's steps.
"""

import argparse
import json
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from activation_store.files import write_json
from unbox.cli.main import main as command
from unbox.models import load
from unbox.models.model import Model
from unbox.shapes import Scene, prompts
from unbox.shapes.detector import accuracy
from unbox.shapes.factor_critics import load_critic
from unbox.text_files import read_toml_file

#: The reader that judges: recipes learn from the other one.
JUDGE = "patches"
#: Pictures of one caption, for diversity.
DRAWN = 4


@dataclass(frozen=True)
class Cell:
    """A recipe's line with a seed."""

    name: str
    line: str
    seed: int

    @property
    def file(self) -> str:
        """Of its result."""
        return f"{self.name}-{self.seed}.json"

    def words(self, model: str, common: str, out: Path) -> list[str]:
        """What is typed after `unbox`."""
        recipe, *own = shlex.split(self.line)
        shared = shlex.split(common)
        given = ["--model", model, "--seed", str(self.seed), "--out", str(out / f"{self.name}-{self.seed}")]
        return ["recipe", recipe, *shared, *own, *given]


def figures(model: Model, teacher: Model, captions: int, steps: int | None = None) -> dict[str, float]:
    """Factors read right on held-out captions, distance to the teacher's pictures of the same seeds,
    deviation among pictures of one caption, and the range of brightness."""
    asked = prompts(captions, seed=99, split="heldout")
    more = {} if steps is None else {"steps": steps}
    texts, seeds = [each.text for each in asked], list(range(captions))
    found = model.generate(texts, seeds=seeds, **more)
    pixels = np.stack([np.asarray(each, float) for each in found]) / 255
    reference = np.stack([np.asarray(each, float) for each in teacher.generate(texts, seeds=seeds)]) / 255
    scenes = [Scene.from_json(each.meta["scene"]) for each in asked]
    right = accuracy(load_critic(JUDGE), found, scenes, [each.meta["mentioned"] for each in asked])
    again = model.generate([texts[0]] * DRAWN, seeds=list(range(DRAWN)), **more)
    same = np.stack([np.asarray(each, float) for each in again]) / 255
    light = pixels.mean((1, 2, 3))
    return {
        **{f"right_{name}": value for name, value in right.items()},
        "distance": float(np.sqrt(np.square(pixels - reference).mean())),
        "diversity": float(same.std(0).mean()),
        "darkest": float(light.min()),
        "brightest": float(light.max()),
    }


def trained(place: Path, base: str) -> Model:
    """What a recipe left."""
    if (place / "model").is_dir():
        return load(place / "model")
    return load(base, lora=place / "lora", system=str(place / "lora" / "system.json"))


def run(grid: Path, out: Path, only: str, dry_run: bool) -> None:
    """Train and measure the cells that have no result."""
    asked = read_toml_file(grid)
    cells = [
        Cell(row["name"], row["line"], seed)
        for row in asked["cell"]
        for seed in asked["seeds"]
        if only in row["name"]
    ]
    for cell in cells:
        if (out / cell.file).exists():
            continue
        words = cell.words(asked["model"], asked["common"], out)
        print("unbox", shlex.join(words), flush=True)
        if dry_run:
            continue
        start = time.process_time()
        if command(words) != 0:
            raise SystemExit(f"{cell.name} did not end")
        seconds = time.process_time() - start
        teacher, model = load(asked["model"]), trained(out / f"{cell.name}-{cell.seed}", asked["model"])
        steps = model.system.steps
        result = {
            "cell": cell.name, "seed": cell.seed, "line": shlex.join(words), "cpu_seconds": seconds,
            "steps": steps, "student": figures(model, teacher, asked["captions"]),
            "teacher_in_these_steps": figures(teacher, teacher, asked["captions"], steps),
        }  # fmt: skip
        write_json(out / cell.file, result)
        print(json.dumps(result["student"]), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grid", type=Path, default=Path(__file__).parents[1] / "examples/recipes/grid.toml")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--only", default="", help="cells whose name holds this")
    parser.add_argument("--dry-run", action="store_true", help="print the lines and end")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    run(given.grid, given.out, given.only, given.dry_run)
