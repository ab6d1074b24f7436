"""Weights of words in a prompt, written as most programs write them: (word:1.2), (word), [word]."""

import re
from itertools import groupby
from typing import NamedTuple

from unbox.errors import UnboxError

#: What a pair of round brackets without a number multiplies by; square ones divide.
STEP = 1.1
#: The largest weight that is taken.
MOST = 10.0

_CLOSING = {")": "(", "]": "["}
#: The end of a bracket with a weight, from its colon on.
_WEIGHT = re.compile(r":\s*(-?(?:\d+(?:\.\d*)?|\.\d+))\s*\)")


class WeightedText(NamedTuple):
    """A piece of a prompt, and the weight of its words."""

    text: str
    weight: float


def weighted_texts(prompt: str) -> list[WeightedText]:
    """The pieces of a prompt with their weights; neighbours of one weight are one piece.

    (text:1.2) has the weight 1.2, (text) 1.1, [text] 1 / 1.1, and brackets in brackets multiply; a backslash
    before a bracket makes it a letter. Raises UnboxError, showing the prompt, for brackets that do not pair
    and weights that are not of 0 to 10.
    """
    letters: list[tuple[str, float]] = []
    opened: list[tuple[str, int]] = []
    at = 0
    while at < len(prompt):
        letter, weight = prompt[at], _WEIGHT.match(prompt, at)
        at += 1
        if letter == "\\" and prompt[at : at + 1] in tuple("()[]\\"):
            letters.append((prompt[at], 1.0))
            at += 1
        elif letter in "([":
            opened.append((letter, len(letters)))
        elif letter in _CLOSING or (weight and opened and opened[-1][0] == "("):
            factor = STEP if letter == ")" else 1 / STEP
            if weight:
                at, factor = weight.end(), float(weight[1])
            begin = _opening("(" if weight else _CLOSING[letter], opened, prompt)
            letters[begin:] = [(each, before * factor) for each, before in letters[begin:]]
        else:
            letters.append((letter, 1.0))
    if opened:
        raise UnboxError(f"the prompt {_shown(prompt)} has a {opened[-1][0]} without its end; {_ESCAPE}")
    if wrong := [weight for _, weight in letters if not 0 <= weight <= MOST]:
        raise UnboxError(
            f"the prompt {_shown(prompt)} has the weight {wrong[0]:g}; weights are of 0 to {MOST:g}"
        )
    return [
        WeightedText("".join(letter for letter, _ in some), weight)
        for weight, some in groupby(letters, key=lambda pair: pair[1])
    ]


_ESCAPE = "a bracket that is a letter has a backslash before it"


def _opening(kind: str, opened: list[tuple[str, int]], prompt: str) -> int:
    """Where the bracket that ends now began."""
    if not opened or opened[-1][0] != kind:
        end = ")" if kind == "(" else "]"
        raise UnboxError(f"the prompt {_shown(prompt)} has a {end} without its beginning; {_ESCAPE}")
    return opened.pop()[1]


def _shown(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 80 else f"{prompt[:77]}...")
