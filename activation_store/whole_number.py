"""Whole numbers that are given to the store."""

import operator
from typing import Any

import numpy as np

from activation_store.errors import StoreError


def whole_number(value: Any, what: str, least: int | None = None) -> int:
    """A number of any integer type. Raises StoreError, saying `what` it is of, for fractions, texts, truth
    values, and for less than `least`."""
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise StoreError(f"{what} is a whole number, not {value!r}")
    if least is not None and operator.index(value) < least:
        raise StoreError(f"{what} is at least {least}, not {value!r}")
    return operator.index(value)
