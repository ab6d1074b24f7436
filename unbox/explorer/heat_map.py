"""Heat: where a feature is active, as a picture to lay over another."""

import numpy as np
from PIL import Image

from unbox.image_uri import image_uri

#: Heat from cold to hot, RGB in fractions: dark violet, red, orange, light yellow (perceptually ordered).
_HEAT = np.array([[0.16, 0.04, 0.33], [0.73, 0.21, 0.33], [0.98, 0.55, 0.04], [0.99, 0.99, 0.75]])


def heat_image(heat: np.ndarray, scale: float) -> Image.Image:
    """A map (y, x) of activations as RGBA: transparent at 0, nearly opaque at `scale`, which is one
    for all of a feature's maps."""
    level = np.clip(heat / max(scale, 1e-12), 0, 1)
    at = level * (len(_HEAT) - 1)
    low = np.minimum(at.astype(int), len(_HEAT) - 2)
    mixed = _HEAT[low] + (_HEAT[low + 1] - _HEAT[low]) * (at - low)[..., None]
    alpha = np.where(level > 0, 0.15 + 0.6 * level, 0)[..., None]
    return Image.fromarray(np.rint(255 * np.concatenate([mixed, alpha], -1)).astype(np.uint8), "RGBA")


def heat_uri(heat: np.ndarray, scale: float) -> str:
    """`heat_image` as a data URI, a pixel for each place: the browser enlarges it."""
    return image_uri(heat_image(heat, scale), "PNG")
