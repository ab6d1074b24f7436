"""Draws ablation.png from the results of examples/block_ablation.toml: each block ablated, for four prompts.

unbox experiment examples/block_ablation.toml --out runs/block_ablation
python docs/images/make_ablation.py runs/block_ablation
"""

import csv
import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

PROMPTS = 4


def main(folder: Path) -> None:
    """Write ablation.png beside this script."""
    with (folder / "rows.csv").open() as lines:
        rows = [r for r in csv.DictReader(lines) if float(r["grid_value"]) == 0 and r["seed"] == "0"]
    blocks = list(dict.fromkeys(row["grid_block"] for row in rows))
    figure = Figure(figsize=(len(blocks) + 1, PROMPTS), layout="constrained")
    axes = figure.subplots(PROMPTS, len(blocks) + 1)
    prompts = list(dict.fromkeys(row["prompt_index"] for row in rows))[:PROMPTS]
    for first, line, prompt in zip((True, *[False] * PROMPTS), axes, prompts, strict=False):
        mine = {row["grid_block"]: row for row in rows if row["prompt_index"] == prompt}
        names = [mine[blocks[0]]["unedited"], *(mine[block]["image"] for block in blocks)]
        for cell, name, title in zip(line, names, ["no edit", *blocks], strict=True):
            with Image.open(folder / name) as image:
                cell.imshow(image.convert("RGB"))
            cell.set_axis_off()
            if first:
                cell.set_title(title, fontsize=9)
    figure.savefig(Path(__file__).parent / "ablation.png", dpi=75)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
