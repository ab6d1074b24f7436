"""How faithful an inversion of a picture is, by the step that it starts from: PSNR in dB with 95 % intervals.

python benchmarks/inversion.py              # 24 held-out renders of the Shapes world: about a minute
"""

import argparse

import numpy as np
from PIL import Image

from unbox.edits import invert
from unbox.models import load
from unbox.shapes import Scene, prompts, render
from unbox.statistics import bootstrap


def main() -> None:
    """Print a line for each prompt, number of steps and start."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--model", default="shapes-turbo", help="a model that draws the Shapes world")
    options = parser.parse_args()
    model = load(options.model)
    told = prompts(options.pictures, seed=5, split="heldout", full=True, pairs=0.0)
    pictures = [Image.fromarray(render(Scene.from_json(p.meta["scene"]))) for p in told]
    for name, texts in (("its caption", [p.text for p in told]), ("no prompt", [""] * len(told))):
        for steps, start in ((1, 0), (4, 0), (4, 1), (4, 2), (4, 3)):
            found = [
                invert(model, picture, text, steps=steps, start=start).fidelity
                for picture, text in zip(pictures, texts, strict=True)
            ]
            figures = {key: str(bootstrap(np.array([f[key] for f in found]))) for key in found[0]}
            print(f"{name}, {steps} steps from {start}: {figures}", flush=True)


if __name__ == "__main__":
    main()
