"""Captions as people type them, written by hand and not by the grammar, with what each asks for: a test.

`people.txt`: caption | first object | second object or nothing | relation | background | light. Of an object:
shape, colour, size, texture, position; `-` is not said.
"""

from pathlib import Path

from unbox.shapes.detector import HEADS
from unbox.shapes.factors import FACTORS, OBJECT_FACTORS

TYPED = Path(__file__).parent / "people.txt"


def people() -> list[tuple[str, dict[str, str]]]:
    """(caption, {head: value}) of each."""
    result = []
    for line in TYPED.read_text(encoding="utf-8").splitlines():
        text, first, second, relation, background, light = (part.strip() for part in line.split("|"))
        asked = {"relation": relation, "background": background, "light": light}
        for slot, thing in enumerate((first, second)):
            if thing:
                words = thing.split()
                values = [*words[:4], " ".join(words[4:])]
                asked |= {f"{slot}.{f}": v for f, v in zip(OBJECT_FACTORS, values, strict=True)}
        known = {head: value for head, value in asked.items() if value != "-"}
        for head, value in known.items():
            assert head in HEADS, (text, head)
            assert value in FACTORS[head.split(".")[-1]], (text, head, value)
        result.append((text, known))
    return result
