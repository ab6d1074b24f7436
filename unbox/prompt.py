"""A prompt and what is known about it."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import PlainValidator

from unbox.validation import Text, validated


def _facts(value: object) -> object:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError("should be an object with keys")
    return value


@validated
class Prompt:
    """Text for the model, and JSON-able facts that travel with it (for Shapes: the scene it describes)."""

    text: Text
    meta: Annotated[Mapping[str, Any], PlainValidator(_facts)] = field(default_factory=dict)
