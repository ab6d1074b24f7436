"""What users may write for an edit's value, features and steps, checked and made plain."""

import math
from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from unbox.errors import UnboxError

Value = float | tuple[float, ...]
Steps = int | range | Sequence[int] | None


def unpacked(value: ArrayLike) -> Any:
    """Python numbers and lists instead of those of numpy and torch."""
    return value.tolist() if hasattr(value, "tolist") else value


def number(value: float) -> float:
    """A finite number. Raises UnboxError for anything else."""
    try:
        result = float(value)
    except (TypeError, ValueError) as error:
        raise UnboxError(f"{value!r} is not a number") from error
    if not math.isfinite(result):
        raise UnboxError(f"{result} is not a finite number")
    return result


def number_or_curve(value: ArrayLike) -> Value:
    """A number, or one per step, of any library."""
    plain = unpacked(value)
    if isinstance(plain, Sequence) and not isinstance(plain, str):
        if not plain:
            raise UnboxError("a curve of values needs at least one, for step 0")
        return tuple(number(v) for v in plain)
    return number(plain)


def indices(value: ArrayLike) -> tuple[int, ...]:
    """Feature numbers: one, or several different ones. Raises UnboxError for anything else."""
    value = unpacked(value)
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    try:
        found = tuple(int(v) for v in values)
        wrong = any(i < 0 or i != v for i, v in zip(found, values, strict=True))
    except (TypeError, ValueError):
        wrong, found = True, ()
    if wrong or len(set(found)) != len(found):
        raise UnboxError(f"{value!r} is not a feature's index or several different ones")
    return found


def step_range(steps: Steps) -> tuple[int, int] | None:
    """A half-open range of steps; None is all of them. Raises UnboxError for anything else."""
    if steps is None:
        return None
    if isinstance(steps, int):
        steps = (steps, steps + 1)
    if isinstance(steps, range):
        steps = (steps.start, max(steps.start, steps.stop)) if steps.step == 1 else ()
    try:
        start, stop = (int(v) for v in steps)
    except (TypeError, ValueError) as error:
        raise UnboxError("steps are a range without stride, or (first, one past the last)") from error
    if not 0 <= start <= stop:
        raise UnboxError(f"steps {start}..{stop} are not a range from 0 upwards")
    return start, stop
