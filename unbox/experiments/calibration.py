"""The smallest strength at which an edit succeeds: by doubling and bisection, within a bound on artifacts."""

from collections.abc import Callable
from dataclasses import dataclass

from unbox.edit import Edits
from unbox.edits.strength import at_strength

#: Strength at which the search begins and ends, and halvings of the interval found.
FIRST, LARGEST, HALVINGS = 0.25, 64.0, 5

#: Share of artifacts that is allowed.
SPOILT = 0.10


@dataclass(frozen=True)
class Tried:
    """What a strength gives, as means over pictures."""

    strength: float
    effect: float
    artifacts: float


@dataclass(frozen=True)
class Calibration:
    """What was found."""

    strength: float
    """In units of the edit as it was given."""
    reached: bool
    """Whether it succeeds. If not, it is the strength with most effect within the bound."""
    tried: tuple[Tried, ...]
    """In the order that they were measured."""


def calibrate(
    measure: Callable[[Edits], tuple[float, float]],
    edits: Edits,
    reach: float,
    spoilt: float = SPOILT,
) -> Calibration:
    """The smallest strength found at which the effect reaches `reach` and at most `spoilt` are artifacts.

    `measure`: from edits to mean effect and share of artifacts. The strength doubles from 1/4 until it
    reaches enough, spoils too much, or is 64; then the interval is halved five times: where the effect grows
    with the strength, what is found is at most 1/32 of the last doubling too large.
    """
    tried: list[Tried] = []

    def at(strength: float) -> Tried:
        tried.append(Tried(strength, *measure(at_strength(edits, strength))))
        return tried[-1]

    def stops(found: Tried) -> bool:  # what spoils too much is too much, whether it reaches or not
        return found.effect >= reach or found.artifacts > spoilt

    low, high = 0.0, FIRST
    while not (enough := stops(at(high))) and high < LARGEST:
        low, high = high, 2 * high
    for _ in range(HALVINGS * enough):
        middle = (low + high) / 2
        low, high = (low, middle) if stops(at(middle)) else (middle, high)
    clean = [each for each in tried if each.artifacts <= spoilt]
    good = [each for each in clean if each.effect >= reach]
    if good:
        return Calibration(min(each.strength for each in good), True, tuple(tried))
    best = max(clean, key=lambda each: (each.effect, -each.strength), default=None)
    return Calibration(0.0 if best is None else best.strength, False, tuple(tried))
