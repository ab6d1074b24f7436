"""A prompt, what is known about it, and what may stand in it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unbox.errors import UnboxError

#: Control characters other than tabs and line ends, halves of surrogate pairs, and byte-order marks (which
#: are left inside where files were joined). Joiners, marks of direction and emoji are text like any other.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff]")


@dataclass(frozen=True)
class Prompt:
    """Text for the model, and JSON-able facts that travel with it (for Shapes: the scene it describes)."""

    text: str
    meta: Mapping[str, Any] = field(default_factory=dict)


def control_character(text: str) -> str | None:
    """The first character, like `U+001B at place 3`, that no text may hold; None where there is none."""
    found = _CONTROL.search(text)
    return found and f"U+{ord(found[0]):04X} at place {found.start()}"


def check_text(text: object, what: str) -> str:
    """The text. Raises UnboxError, calling it `what`, for what is no text or has control characters."""
    if not isinstance(text, str):
        raise UnboxError(f"{what} is not text but {type(text).__name__} {str(text)[:40]!r}")
    if found := control_character(text):
        raise UnboxError(f"{what} holds the control character {found}: take it out")
    return text
