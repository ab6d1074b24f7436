"""A prompt and what is known about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """Text for the model, and JSON-able facts that travel with it (for Shapes: the scene it describes)."""

    text: str
    meta: Mapping[str, Any] = field(default_factory=dict)
