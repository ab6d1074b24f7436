"""How far two pictures differ, and where."""

import numpy as np
from PIL import Image


def difference_image(before: Image.Image, after: Image.Image) -> Image.Image:
    """Where two pictures differ: the mean absolute difference of the channels, its largest value white."""
    change = _change(before, after)
    white = max(float(change.max()), 1.0)
    return Image.fromarray(np.rint(255 * change / white).astype(np.uint8), "L").convert("RGB")


def mean_change(
    before: Image.Image, after: Image.Image, mask: np.ndarray | None = None
) -> tuple[float, float]:
    """Mean absolute difference (0 to 255) inside and outside of a mask (y, x) of any resolution."""
    change = _change(before, after)
    if mask is None:
        return float(change.mean()), 0.0
    placed = Image.fromarray(np.rint(255 * mask).astype(np.uint8), "L")
    inside = np.asarray(placed.resize(before.size, Image.Resampling.BOX), np.float32) / 255
    within, without = (float((change * part).sum() / max(part.sum(), 1e-9)) for part in (inside, 1 - inside))
    return within, without


def _change(before: Image.Image, after: Image.Image) -> np.ndarray:
    """(y, x) mean absolute difference of the channels."""
    return np.abs(np.asarray(after, np.float32) - np.asarray(before, np.float32)).mean(-1)
