"""The README's picture, from a finished demo: `python docs/images/make_first_edits.py demo`."""

import base64
import io
import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

SHOWN = ("colour-green", "texture-striped", "background-olive", "light-dim")
HERE = Path(__file__).parent


def picture(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data.split(",", 1)[1]))).convert("RGB")


def main(demo: Path) -> None:
    figure, axes = plt.subplots(2, 4 * len(SHOWN), figsize=(12, 2.0), dpi=110)
    for i, name in enumerate(SHOWN):
        (file,) = demo.glob(f"stages/control-{name}-*/result.json")
        found = json.loads(file.read_text())["result"]
        rate, control = found["edited"], found["control"]
        for j, shown in enumerate(found["pictures"][:4]):
            for axis, kind in zip(axes[:, 4 * i + j], ("before", "after"), strict=True):
                axis.imshow(picture(shown[kind]), interpolation="nearest")
                axis.axis("off")
        hits = [f"{count['hits']}/{count['n']}" for count in (rate, control)]
        title = f"{found['factor']} → {found['value']}: {hits[0]}, random features {hits[1]}"
        figure.text((i + 0.5) / len(SHOWN), 0.94, title, ha="center", fontsize=8.5)
    figure.subplots_adjust(0.005, 0.01, 0.995, 0.90, 0.06, 0.06)
    figure.savefig(HERE / "first-edits.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
