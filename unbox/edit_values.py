"""The rules of an edit's fields: what users may write for values, features, vectors and steps, made plain."""

from collections.abc import Sequence
from typing import Annotated, TypeAlias, TypeVar

from annotated_types import MaxLen, MinLen
from pydantic import AfterValidator, BeforeValidator, Discriminator, Tag

from unbox.validation import LONGEST_LIST, Index, Real, Several, checked, inside

Number = TypeVar("Number", int, float)

#: What users may write for steps: one, a range, (first, one past the last); None is all of them.
StepsLike: TypeAlias = int | range | Sequence[int] | None


def _plain(value: object) -> object:
    """Python numbers and tuples instead of those of NumPy and torch, and of lists."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, list | range):
        return value
    if len(value) > LONGEST_LIST:
        raise ValueError(f"should hold at most {LONGEST_LIST:,} values")
    return tuple(value)


def _numbers(value: object) -> object:
    """A tuple of numbers. Numbers of Python pass as they are: a direction has a thousand of them."""
    value = _plain(value)
    if not isinstance(value, tuple):
        raise ValueError("should be a list of numbers")
    if set(map(type, value)) <= {float, int}:
        return value
    found = []
    for place, each in enumerate(value):
        with inside(f"[{place}]"):
            found.append(checked(Real, "", each))
    return tuple(found)


def _one_or_several(value: object) -> str:
    return "several" if isinstance(value, tuple) else "one"


def _different(value: tuple[Number, ...]) -> tuple[Number, ...]:
    if len(set(value)) != len(value):
        raise ValueError("should be different ones")
    return value


def _step_range(value: object) -> object:
    """(first, one past the last) of steps."""
    value = _plain(value) if not isinstance(value, range) else value
    if isinstance(value, range):
        if value.step != 1:
            raise ValueError("should be a range without a stride")
        return value.start, max(value.start, value.stop)
    if isinstance(value, tuple):
        return value
    one = checked(Index, "", value)
    return one, one + 1


def _in_order(value: tuple[int, int]) -> tuple[int, int]:
    if value[0] > value[1]:
        raise ValueError("should be (first, one past the last), in this order")
    return value


#: Finite numbers; a vector of the update's space.
Numbers = Annotated[tuple[float, ...], BeforeValidator(_numbers)]
Vector = Annotated[Numbers, MinLen(1)]
#: A number, or one for each step; a schedule has 1,000 steps at most.
Curve = Annotated[
    Annotated[Real, Tag("one")] | Annotated[Numbers, MinLen(1), MaxLen(1000), Tag("several")],
    Discriminator(_one_or_several), BeforeValidator(_plain),
]  # fmt: skip
#: Indices of features, each once; one alone, or several and at least one.
FeatureIndices = Annotated[Several[Index], AfterValidator(_different)]
FeatureIndex = Annotated[
    Annotated[Index, Tag("one")] | Annotated[FeatureIndices, MinLen(1), Tag("several")],
    Discriminator(_one_or_several), BeforeValidator(_plain),
]  # fmt: skip
#: A half-open range of the scheduler's steps.
StepRange = Annotated[tuple[Index, Index], BeforeValidator(_step_range), AfterValidator(_in_order)]
