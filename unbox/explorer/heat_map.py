"""Heat: where a feature is active, as a picture to lay over another."""

import numpy as np
from PIL import Image

from unbox.image_uri import image_uri

#: Heat from cold to hot, RGB in fractions: dark violet, red, orange, light yellow (perceptually ordered).
_HEAT = np.array([[0.16, 0.04, 0.33], [0.73, 0.21, 0.33], [0.98, 0.55, 0.04], [0.99, 0.99, 0.75]])


def heat_uri(heat: np.ndarray, scale: float) -> str:
    """A map (y, x) of activations as the data URI of an RGBA picture, a pixel for each place (the browser
    enlarges it): transparent at 0, nearly opaque at `scale`, which is one for all of a feature's maps."""
    level, stops = np.clip(heat / max(scale, 1e-12), 0, 1), np.linspace(0, 1, len(_HEAT))
    colours = [np.interp(level, stops, colour) for colour in _HEAT.T]
    rgba = np.stack([*colours, np.where(level > 0, 0.15 + 0.6 * level, 0)], -1)
    return image_uri(Image.fromarray(np.rint(255 * rgba).astype(np.uint8), "RGBA"), "PNG")
