"""The factors of the Shapes world, one row each: values, how captions say them, where to see them.

`render` draws the values; the detector's heads follow from this table.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Factor:
    """Something that may vary about an object, or about a scene as a whole."""

    of: str
    """`object` or `scene`."""
    omitted: float
    """Share of partial captions that leave it out."""
    read: str
    """Where it is read in a picture: `object`, `background` (all but the object) or `everywhere`."""
    edit: str
    """Where an edit of it has to act."""
    wordings: dict[str, tuple[str, ...]]
    """Value -> every way to say it, the plainest first; none where `captions` has sentences of its own."""


TABLE = {
    "shape": Factor(
        "object", omitted=0.2, read="object", edit="object", wordings={
            "circle": ("circle", "disc", "ball"), "square": ("square", "box"),
            "triangle": ("triangle", "pyramid"), "star": ("star", "pentagram"),
            "heart": ("heart", "valentine"), "cross": ("cross", "plus"),
        },
    ),
    "colour": Factor(
        "object", omitted=0.3, read="object", edit="object", wordings={
            "red": ("red", "crimson", "scarlet"), "orange": ("orange", "tangerine"),
            "yellow": ("yellow", "golden"), "green": ("green", "emerald"), "cyan": ("cyan", "turquoise"),
            "blue": ("blue", "azure"), "purple": ("purple", "violet"), "white": ("white", "ivory"),
        },
    ),
    "size": Factor(
        "object", omitted=0.4, read="object", edit="object", wordings={
            "small": ("small", "little", "tiny"), "large": ("large", "big", "huge"),
        },
    ),
    "texture": Factor(
        "object", omitted=0.4, read="object", edit="object", wordings={
            "solid": ("solid", "plain", "flat"), "striped": ("striped", "banded"),
            "checkered": ("checkered", "checked"), "dotted": ("dotted", "spotted"),
        },
    ),
    "position": Factor(  # it is read where the object is; an edit has to reach where the object is to go
        "object", omitted=0.4, read="object", edit="everywhere", wordings={
            "top left": ("in the top left corner", "at the upper left"),
            "top": ("at the top", "in the upper middle"),
            "top right": ("in the top right corner", "at the upper right"),
            "left": ("on the left", "at the left side"), "center": ("in the center", "in the middle"),
            "right": ("on the right", "at the right side"),
            "bottom left": ("in the bottom left corner", "at the lower left"),
            "bottom": ("at the bottom", "in the lower middle"),
            "bottom right": ("in the bottom right corner", "at the lower right"),
        },
    ),
    "relation": Factor(  # told in canonical order: slot 0 is the left or the upper object
        "scene", omitted=0.0, read="everywhere", edit="everywhere", wordings={
            "alone": (), "left of": (), "above": (),
        },
    ),
    "background": Factor(
        "scene", omitted=0.4, read="background", edit="background", wordings={
            "gray": ("gray", "ashen"), "navy": ("navy", "midnight"), "brown": ("brown", "chocolate"),
            "olive": ("olive", "mossy"), "teal": ("teal", "petrol"), "plum": ("plum", "mauve"),
        },
    ),
    "light": Factor(
        "scene", omitted=0.5, read="everywhere", edit="everywhere", wordings={
            "bright": ("bright light", "brightly lit"), "dim": ("dim light", "dimly lit"),
            "from the left": ("light from the left", "lit from the left"),
            "from the right": ("light from the right", "lit from the right"),
        },
    ),
}  # fmt: skip

#: The values that each factor takes.
FACTORS: dict[str, tuple[str, ...]] = {name: tuple(factor.wordings) for name, factor in TABLE.items()}

#: Factors of one object, and of the scene as a whole.
OBJECT_FACTORS = tuple(name for name, factor in TABLE.items() if factor.of == "object")
SCENE_FACTORS = tuple(name for name, factor in TABLE.items() if factor.of == "scene")
