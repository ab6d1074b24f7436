"""What to type after the demo: commands that work on what it left behind."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from activation_store import write_json
from unbox.edit import Edits
from unbox.ground_truth.demo.demo_plan import DemoPlan
from unbox.ground_truth.demo.turn_on import MeasuredEdit
from unbox.result_cache import Stage
from unbox.shapes import SCENE_FACTORS
from unbox.shapes.render import RADIUS, UNITS

#: A caption whose object is where the saved edits of objects act.
CAPTION = "a large solid orange square in the center on a gray background, light from the left"


def save_edits(folder: Path, results: Sequence[MeasuredEdit]) -> list[Path]:
    """Write each edit for `unbox generate --edits`; edits of objects act on the middle of the picture."""
    radius = (RADIUS["large"] + 4) / UNITS
    middle = {"box": [0.5 - radius, 0.5 - radius, 0.5 + radius, 0.5 + radius]}
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for result in results:
        where = {} if result["factor"] in SCENE_FACTORS else {"where": middle}
        edits = Edits.from_json([edit | where for edit in result["edits"]])
        paths.append(_edit_file(folder, result["factor"], result["value"]))
        write_json(paths[-1], edits.to_json())
    return paths


def remove_edits(folder: Path, values: Iterable[tuple[str, str]]) -> None:
    """Remove the edits of some factor values, where they are."""
    for value in values:
        _edit_file(folder, *value).unlink(missing_ok=True)


def _edit_file(folder: Path, factor: str, value: str) -> Path:
    return folder / f"{factor}-{value}.json".replace(" ", "-")


def following(
    options: str, plan: DemoPlan, collected: Stage, trained: Stage, atlas: Stage, edit: Path
) -> str:
    """Commands to go on with, one under the other; `options` load the model."""
    store, saes = collected.folder / "store", trained.folder / "saes"
    return f"""\
# browse these features, look at pictures of your own through them, paint with them
unbox app {options} --saes {saes} --atlas {atlas.folder / "atlas"}
# one of the edits above, on a caption of your own
unbox generate {options} --steps {plan.steps} --prompt "{CAPTION}" --seed 1 \\
    --saes {saes} --edits {edit} --out edited.png
# autoencoders of your own on the activations that the demo left
unbox train --store {store} --out saes --k 16 --latents 1024
# the same path on the real model, with a GPU
unbox collect --model stabilityai/sdxl-turbo --prompts captions.txt --store acts
# the library, in twenty cells
notebooks/01_first_edit.py"""
