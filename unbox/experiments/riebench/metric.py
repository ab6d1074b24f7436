"""RIEBench's metric: distances of an edited image to the original and to the edited prompt's image.

The published distances are LPIPS and CLIP similarity (`lpips`, `clip`); any metric of experiments serves.
"""

from collections.abc import Sequence

from PIL import Image

from unbox.experiments.critics import Figures, ImagePair, Metric


def riebench_metric(
    metrics: Sequence[Metric], original: Image.Image, target: Image.Image, edited: Image.Image, prompt: str
) -> Figures:
    """Each metric's figures, named `..._to_original` and `..._to_edited`.

    `target`: the image of the edited prompt, which is `prompt`.
    """
    pairs = [ImagePair(original, edited, prompt), ImagePair(target, edited, prompt)]
    found: Figures = {}
    for metric in metrics:
        for side, figures in zip(("original", "edited"), metric(pairs), strict=True):
            found |= {f"{name}_to_{side}": value for name, value in figures.items()}
    return found
