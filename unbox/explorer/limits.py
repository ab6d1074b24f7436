"""What the explorer accepts. Every number, text and mask that comes from a browser, a link, a PNG or the API
passes here: Gradio's own bounds do not stop NaN, fractions of steps or long texts."""

import math
import re
from collections.abc import Mapping
from functools import partial

from unbox.edit import Edits
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.models.seeds import seed_of
from unbox.validation import Text, checked

PROMPT, JSON_BYTES, EDITS, MASK_CELLS = 2000, 1 << 20, 64, 512 * 512
STEPS, GUIDANCE, SIDE = 100, 50.0, 2048
#: Most characters of a seed that is typed: it has 20 digits at most.
SEED_DIGITS = 24
#: Largest strength of an edit, in its unit, and most features of one edit.
STRENGTH, FEATURES = 1000.0, 64


def text(name: str, value: JSON, longest: int = PROMPT) -> str:
    """A text of at most `longest` characters without control characters (line breaks become spaces).

    Joiners, as of emoji and of Persian, are text: the same rule as for prompts anywhere.
    """
    if not isinstance(value, str):
        raise UnboxError(f"{name} is a text, not {_shown(value)}")
    if len(value) > longest:
        raise UnboxError(f"{name} has {len(value):,} characters; at most {longest:,} are taken")
    return " ".join(checked(Text, name, value).split())


def number(name: str, value: JSON, low: float, high: float) -> float:
    """A finite number between `low` and `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnboxError(f"{name} is a number from {low:g} to {high:g}, not {_shown(value)}")
    if not low <= value <= high:  # false for NaN too
        raise UnboxError(f"{name} is from {low:g} to {high:g}, not {_shown(value)}")
    return float(value)


def whole(name: str, value: JSON, low: int, high: int) -> int:
    """A whole number between `low` and `high`."""
    found = number(name, value, low, high)
    if not found.is_integer():
        raise UnboxError(f"{name} is a whole number, not {_shown(value)}")
    return int(found)


steps = partial(whole, "steps", low=1, high=STEPS)
guidance = partial(number, "guidance", low=0.0, high=GUIDANCE)


def seed(value: JSON) -> int:
    """A seed. No fraction passes, not even 7.0: JSON's large numbers lose digits as floats."""
    return seed_of(value)  # type: ignore[arg-type]


def typed_seed(value: JSON) -> int:
    """A seed as a page sends it: as text, for a browser's numbers are exact up to 2^53 alone."""
    if isinstance(value, str) and len(value) <= SEED_DIGITS and re.fullmatch(r"\s*[0-9]+\s*", value):
        return seed(int(value))
    return seed(value)


def side(name: str, value: JSON) -> int:
    """Pixels, a multiple of 8."""
    pixels = whole(name, value, 32, SIDE)
    if pixels % 8:
        raise UnboxError(f"{name} is a multiple of 8 pixels, not {pixels}")
    return pixels


def places(name: str, value: JSON, count: int) -> frozenset[int]:
    """Places in a list of `count`."""
    if not isinstance(value, list) or len(value) > EDITS:
        raise UnboxError(f"{name} is a list of places in the list of edits")
    return frozenset(whole(name, each, 0, max(count - 1, 0)) for each in value)


def edits(value: JSON) -> Edits:
    """Edits from JSON: not too many, not too strong, no mask that is too large."""
    rows = value.get("edits") if isinstance(value, Mapping) and "edits" in value else value
    rows = [rows] if isinstance(rows, Mapping) else rows
    if not isinstance(rows, list):
        raise UnboxError(f"edits are a list, not {_shown(value)}")
    if len(rows) > EDITS:
        raise UnboxError(f"{len(rows):,} edits were given; at most {EDITS} are taken")
    for row in rows:
        where = row.get("where") if isinstance(row, Mapping) else None
        if isinstance(where, Mapping) and "shape" in where:
            mask_shape(where["shape"])
    result = Edits.from_json(value)
    for edit in result:
        values = edit.value if isinstance(edit.value, tuple) else (edit.value,)
        for each in values[:STEPS]:
            number("strength", each, -STRENGTH, STRENGTH)
        if len(values) > STEPS or len(edit.feature) > FEATURES:
            raise UnboxError(f"an edit has at most {FEATURES} features and {STEPS} values")
    return result


def mask_shape(shape: JSON) -> None:
    """Refuse a mask of more than MASK_CELLS, before it is unpacked."""
    if not isinstance(shape, list) or not all(isinstance(side, int) and 0 < side <= 4096 for side in shape):
        raise UnboxError(f"{_shown(shape)} is not the shape of a mask")
    if math.prod(shape) > MASK_CELLS:
        sides = " x ".join(map(str, shape))
        raise UnboxError(f"a mask of {sides} is too large; at most {MASK_CELLS:,} cells")


def _shown(value: JSON) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"
