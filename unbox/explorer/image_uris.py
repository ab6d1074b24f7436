"""Pictures for the pages, as data URIs: nothing is served from disk."""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from unbox.image_uri import image_uri
from unbox.models.png_record import KEYWORD

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


def difference(before: Image.Image, after: Image.Image) -> Image.Image:
    """Where two pictures differ: the mean absolute difference of the channels, its largest value white."""
    change = np.abs(np.asarray(after, np.float32) - np.asarray(before, np.float32)).mean(-1)
    return Image.fromarray(np.rint(255 * change / max(float(change.max()), 1.0)).astype(np.uint8), "L")


def changed(before: Image.Image, after: Image.Image, mask: np.ndarray | None = None) -> tuple[float, float]:
    """Mean absolute difference (0 to 255) inside and outside of a mask (y, x) of any resolution."""
    change = np.abs(np.asarray(after, np.float32) - np.asarray(before, np.float32)).mean(-1)
    if mask is None:
        return float(change.mean()), 0.0
    placed = Image.fromarray(np.rint(255 * mask).astype(np.uint8), "L").resize(
        before.size, Image.Resampling.BOX
    )
    inside = np.asarray(placed, np.float32) / 255
    outside = 1 - inside
    return (
        float((change * inside).sum() / max(inside.sum(), 1e-9)),
        float((change * outside).sum() / max(outside.sum(), 1e-9)),
    )


def png_with_recipe(image: Image.Image, record: Mapping[str, Any]) -> bytes:
    """A PNG that carries its recipe, in the chunk that `unbox.models.png_record` reads."""
    chunk = PngImagePlugin.PngInfo()
    chunk.add_itxt(KEYWORD, json.dumps(record, allow_nan=False, ensure_ascii=False))
    data = io.BytesIO()
    image.save(data, "PNG", pnginfo=chunk)
    return data.getvalue()
