"""Options under the names that they had before: as keywords, in files, in the hashes that name results."""

import warnings
from collections.abc import Mapping
from typing import TypeVar

from unbox.errors import UnboxError

Value = TypeVar("Value")


def renamed(given: Mapping[str, Value], former: Mapping[str, str], warn: bool = False) -> dict[str, Value]:
    """`given` under its new names (`former`: old -> new). With `warn`, an old one is a DeprecationWarning.

    Raises UnboxError where an option is given under both.
    """
    for old in given.keys() & former.keys():
        if former[old] in given:
            raise UnboxError(f"{old} is now called {former[old]}; give it once")
        if warn:
            warnings.warn(f"{old}= is now called {former[old]}=", DeprecationWarning, stacklevel=3)
    return {former.get(name, name): value for name, value in given.items()}


def as_written(settings: Mapping[str, Value], former: Mapping[str, str]) -> dict[str, Value]:
    """Settings under the names that files and hashes have had from the first: the inverse of `renamed`."""
    return renamed(settings, {new: old for old, new in former.items()})
