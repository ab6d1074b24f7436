"""The LoRAs that the package brings over the `shapes-base` that it brings now, which may be another than they
were trained over: figures of the grid beside those of the base, in RESULTS/present and in the cards.

    python -m benchmarks.present_loras --out runs/present [--systems shapes-dpo]

Stopped, the same line goes on with the systems that have no figures of this base; several processes share
them.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from activation_store.files import write_json, write_text
from benchmarks.bundled_loras import SEED, SHOWN, ZOO, row, taste_of
from benchmarks.grid_workers import claimed
from benchmarks.recipe_figures import Pictures, figures
from benchmarks.recipe_plain import PLAIN_SEEDS, plain_brightness
from benchmarks.recipes_grid import GRID, RESULTS, Grid, device_name, processor
from unbox.models import load
from unbox.models.hub import bundled_folder
from unbox.models.model import weight_hash
from unbox.text_files import read_json_object, read_toml_file

#: The section of a card that is of the present base, to the card's end.
HEAD = "\n## Over the present `shapes-base`\n"

SECTION = """{head}
The figures above are of the UNet that the LoRA was trained over. Those below are of the one that the package
brings now ({unet}; what changed is in `docs/systems.md`), in {steps} step{s}. ({processor})

| | {heads} |
| --- | {rules} |
{rows}
"""


def measure(grid: Grid, system: str, cell: dict[str, Any]) -> dict[str, Any]:
    """Figures of a system of the package, drawn as the result of its cell was, and of the base in as many
    steps, without guidance and with the base's."""
    model, base = load(system, device=grid.device, dtype="float32"), load(grid.asked["model"]).system
    steps, guidance = cell["steps"], cell["guidance"]
    most = grid.base(base.steps, base.guidance)
    result: dict[str, Any] = {"base": {}}
    for own in dict.fromkeys((0.0, base.guidance)):
        drawn = grid.base(steps, own)
        result["base"][f"{own:g}"] = {"figures": figures(drawn, most, grid.captions)}
    rival = grid.base(steps, guidance)
    found = Pictures.drawn(model, grid.captions, steps, guidance)
    result["figures"] = figures(found, most, grid.captions, rival)
    if "plain" in cell:
        result["plain"] = plain_brightness(model, PLAIN_SEEDS, steps)
        plain = load(grid.asked["model"], device=grid.device, dtype="float32")
        result["base"][f"{base.guidance:g}"]["plain"] = plain_brightness(plain, PLAIN_SEEDS, steps)
    if "taste" in cell:
        settings = {"steps": steps, "guidance": guidance}
        result["taste"] = taste_of(grid, model, settings, grid.out / f"taste-{system}.npz")
        own_taste = read_json_object(grid.results / f"base-{steps}-{guidance:g}-taste.json")
        result["base"][f"{guidance:g}"]["taste"] = own_taste["taste"]
    facts = {"system": system, "steps": steps, "guidance": guidance, "processor": processor()}
    return {
        **facts,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "device": device_name(model),
        **result,
    }


def section(told: dict[str, Any]) -> str:
    """What a card says of the present base."""
    shown = [column for column in SHOWN if column[1] in told.get(column[0], {})]
    steps = told["steps"]
    in_steps = f"`shapes-base` in {steps} step{'s' * (steps > 1)}"
    rows = [
        row(f"{in_steps}, {'no guidance' if guidance == '0' else f'guidance {guidance}'}", found, shown)
        for guidance, found in told["base"].items()
    ]
    rows.append(row("this LoRA over it", told, shown))
    return SECTION.format(
        head=HEAD, unet=f"UNet {told['unet'][:8]}", steps=steps, s="s" * (steps > 1),
        processor=told["processor"],
        heads=" | ".join(SHOWN[column] for column in shown), rules=" | ".join(["---"] * len(shown)),
        rows="\n".join(rows),
    )  # fmt: skip


def with_section(card: str, told: dict[str, Any]) -> str:
    """A card that ends with the section, in place of one that it had."""
    return card.split(HEAD)[0].rstrip("\n") + "\n" + section(told)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of pictures of this base")
    parser.add_argument("--grid", type=Path, default=GRID)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--systems", nargs="*", choices=ZOO, default=list(ZOO))
    parser.add_argument("--device")
    given = parser.parse_args()
    asked, place = read_toml_file(given.grid), given.results / "present"
    unet = weight_hash(load(asked["model"]).unet)
    out = given.out.absolute() / unet[:8]
    for folder in (place, out):
        folder.mkdir(parents=True, exist_ok=True)
    grid = Grid(asked, out, out, given.device)  # results of this base's own pictures are not kept
    for system in given.systems:
        with claimed(out, system) as own:
            if not own:
                continue
            file, card = place / f"{system}.json", bundled_folder(f"bundled:{system}") / "README.md"
            if not file.is_file() or read_json_object(file)["unet"] != unet:
                cell = read_json_object(given.results / f"{ZOO[system]}-{SEED}.json")
                write_json(file, {"unet": unet, **measure(grid, system, cell)})
            told = read_json_object(file)
            write_text(card, with_section(card.read_text(encoding="utf-8"), told))
            print(system, row("", told, [("figures", "right"), ("figures", "distance")]), flush=True)


if __name__ == "__main__":
    main()
