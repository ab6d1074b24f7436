"""Aspect buckets: the sizes that images are cut to, and what the model is told of the cut."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from unbox.models.buckets import BUCKETS

Crop = Literal["center", "random"]
Size = tuple[int, int]


@dataclass(frozen=True)
class AspectBuckets:
    """Sizes (height, width) in pixels, in their order; an image is of the nearest in aspect ratio."""

    sizes: tuple[Size, ...]

    @classmethod
    def of(cls, side: int, unit: int, square: bool = False) -> "AspectBuckets":
        """SDXL's published table (40 sizes of 1024 x 1024 pixels) for a model of native `side`, each side a
        multiple of `unit` pixels; `square`: of squares alone."""
        if square:
            return cls(((side, side),))
        scaled = [(_rounded(h * side / 1024, unit), _rounded(w * side / 1024, unit)) for h, w in BUCKETS]
        return cls(tuple(dict.fromkeys(scaled)))

    def nearest(self, height: int, width: int) -> int:
        """The number of the bucket whose aspect ratio is nearest, in its logarithm."""
        wanted = math.log(height / width)
        away = [abs(math.log(h / w) - wanted) for h, w in self.sizes]
        return away.index(min(away))


@dataclass(frozen=True)
class Cut:
    """How an image is made one of a bucket: resized to `resized`, then cut at `corner` (top, left)."""

    original: Size
    resized: Size
    corner: Size
    target: Size

    @classmethod
    def of(cls, original: Size, target: Size, crop: Crop, seed: int) -> "Cut":
        """The smallest resize (up, too) that covers the bucket, and a crop in the middle or, `random`, at a
        place that the seed decides."""
        scale = max(target[0] / original[0], target[1] / original[1])
        height, width = (max(t, round(o * scale)) for o, t in zip(original, target, strict=True))
        spare = (height - target[0], width - target[1])
        if crop == "random":
            top, left = np.random.default_rng(seed).integers(0, np.array(spare) + 1).tolist()
        else:
            top, left = spare[0] // 2, spare[1] // 2
        return cls(original, (height, width), (top, left), target)

    @property
    def sizes(self) -> tuple[int, ...]:
        """SDXL's micro-conditioning: original height and width, top and left of the crop in the resized
        image, target height and width."""
        return (*self.original, *self.corner, *self.target)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """(height, width, 3) uint8 of the image, cut."""
        height, width = self.resized
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        top, left = self.corner
        box = (left, top, left + self.target[1], top + self.target[0])
        return np.asarray(image.crop(box))


def _rounded(length: float, unit: int) -> int:
    return max(unit, round(length / unit) * unit)
