"""Where each factor is read in a picture of a scene, and where an edit of it has to act."""

import numpy as np

from unbox.mask import Mask
from unbox.shapes.factors import TABLE
from unbox.shapes.render import masks
from unbox.shapes.scene import Scene


def read_mask(factor: str, scene: Scene, slot: int = 0) -> Mask | None:
    """Where a factor is read in a scene; None is everywhere."""
    return place_mask(TABLE[factor].read, scene, slot)


def edit_mask(factor: str, scene: Scene, slot: int = 0) -> Mask | None:
    """Where an edit of a factor acts in a scene; None is everywhere."""
    return place_mask(TABLE[factor].edit, scene, slot)


def place_mask(place: str, scene: Scene, slot: int = 0) -> Mask | None:
    """A place of a `Factor` in a scene, about the object in `slot`; None is everywhere."""
    if place == "everywhere":
        return None
    inside = object_box(scene, slot)
    return Mask.of(inside if place == "object" else ~inside)


def object_box(scene: Scene, slot: int = 0, margin: int = 8) -> np.ndarray:
    """The box of an object, bool (SIDE, SIDE), `margin` pixels wider: jitter and another shape fit in."""
    drawn = masks(scene)[slot]
    rows, columns = np.nonzero(drawn)
    wide = np.zeros_like(drawn)
    top, left = max(rows.min() - margin, 0), max(columns.min() - margin, 0)
    wide[top : rows.max() + margin + 1, left : columns.max() + margin + 1] = True
    return wide
