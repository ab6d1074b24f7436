"""Edits on one scale from 0, which changes nothing, to 1, which is what they say."""

from dataclasses import replace

from unbox.edit import Edit, Edits
from unbox.edit_ops import OPS
from unbox.errors import UnboxError
from unbox.validation import Real, checked


def at_strength(edits: Edit | Edits, strength: float) -> Edits:
    """The edits at a strength: 0 is no edit, 1 is `edits`, beyond is more of the same.

    A value v becomes n + strength (v - n), where n is the value at which its op changes nothing: 0 for add
    and swap, 1 for scale; a reconstruction is mixed in by so much. Raises UnboxError for set and replace,
    which leave nothing of what was there at any value.
    """
    strength = checked(Real, "strength", strength, "at_strength")
    scaled = Edits(tuple(_scaled(edit, strength) for edit in Edits.of(edits)))
    return scaled if strength else Edits()


def _scaled(edit: Edit, strength: float) -> Edit:
    op = OPS[edit.op]
    neutral = 0.0 if op.reconstructs else op.neutral
    if neutral is None:
        raise UnboxError(
            f"'{edit.summary}' has no strength: {edit.op} puts its value in the place of what was there; "
            "use add or scale"
        )
    several = edit.value if isinstance(edit.value, tuple) else (edit.value,)
    scaled = tuple(neutral + strength * (value - neutral) for value in several)
    return replace(edit, value=scaled if isinstance(edit.value, tuple) else scaled[0])


def within_steps(edits: Edits, start: int, stop: int) -> Edits:
    """What of the edits acts at the scheduler's steps from `start` up to but not including `stop`."""
    found = []
    for edit in edits:
        first, last = edit.steps or (start, stop)
        first, last = max(first, start), min(last, stop)
        if first < last:
            found.append(replace(edit, steps=(first, last)))
    return Edits(tuple(found))


def of_blocks(edits: Edits, blocks: tuple[str, ...]) -> Edits:
    """What of the edits acts in some blocks."""
    return Edits(tuple(edit for edit in edits if edit.block in blocks))
