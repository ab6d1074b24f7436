"""RIEBench's metric: distances of edited images to the original and to the edited prompt's image.

The published distances are LPIPS and CLIP similarity (`lpips`, `clip`); any metric of experiments serves.
"""

from collections.abc import Sequence

from PIL import Image

from unbox.experiments.critics import Figures, ImagePair, Metric


def riebench_metric(
    metrics: Sequence[Metric],
    original: Image.Image,
    target: Image.Image,
    edited: Sequence[Image.Image],
    prompt: str,
) -> list[Figures]:
    """Each metric's figures of each edited image, named `..._to_original` and `..._to_edited`; one call a
    metric.

    `target`: the image of the edited prompt, which is `prompt`.
    """
    pairs = [ImagePair(before, after, prompt) for before in (original, target) for after in edited]
    sides = ["original"] * len(edited) + ["edited"] * len(edited)
    found: list[Figures] = [{} for _ in edited]
    for metric in metrics:
        for place, (side, figures) in enumerate(zip(sides, metric(pairs), strict=True)):
            found[place % len(edited)] |= {f"{name}_to_{side}": value for name, value in figures.items()}
    return found
