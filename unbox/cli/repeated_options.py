"""Options that are typed several times: LoRAs, each with its strength; others are refused."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from unbox.errors import UnboxError

_LORA, _MORE, _STRENGTH = "--lora", "--add-lora", "--lora-strength"
_WITH_STRENGTH = re.compile(r"(?P<place>.+):(?P<strength>[-+]?[0-9]*\.?[0-9]+)")


def several_loras(words: Sequence[str]) -> list[str]:
    """`--lora A:0.8 --lora B` as the options that hold it: A, B beside it, and their strengths.

    Raises UnboxError where those are typed too.
    """
    given, others = list[str](), list[str]()
    for word in words:
        name, joined, value = word.partition("=")
        if others and others[-1] == _LORA:
            others.pop()
            given.append(word)
        elif name == _LORA and joined:
            given.append(value)
        else:
            others.append(word)
    loras = [_split(each) for each in given]
    if len(loras) < 2 and all(strength is None for _, strength in loras):
        return list(words)
    if also := [option(word) for word in others if option(word) in (_MORE, _STRENGTH)]:
        raise UnboxError(
            f"{also[0]} says again what {_LORA} {given[-1]} does: several LoRAs are {_LORA} A:0.8 {_LORA} B, "
            f"or {_LORA} A {_MORE} B {_STRENGTH} 0.8 1"
        )
    (first, _), *more = loras
    beside = [_MORE, *(place for place, _ in more)] if more else []
    return [*others, _LORA, first, *beside, _STRENGTH, *(strength or "1" for _, strength in loras)]


def refuse_repeated(command: str, words: Sequence[str]) -> None:
    """Raises UnboxError for an option that is typed twice, of which one would do nothing."""
    counts = Counter(option(word) for word in words if word.startswith("--") and len(word) > 2)
    if twice := next((name for name, count in counts.items() if count > 1), None):
        raise UnboxError(
            f"{twice} is given {counts[twice]} times, of which one alone would count; where an option takes "
            f"several values, they stand behind it: see `unbox {command} --help`"
        )


def with_options(words: Sequence[str], more: Sequence[str]) -> list[str]:
    """The words with one more option and its values, in the place of that option where it was typed."""
    if not more:
        return list(words)
    kept, dropping = list[str](), False
    for word in words:
        if word.startswith("--"):
            dropping = option(word) == option(more[0])
        if not dropping:
            kept.append(word)
    return [*kept, *more]


def option(word: str) -> str:
    """The name of an option as typed, without its value; `--no-x` and `--x` are one."""
    name = word.partition("=")[0].replace("_", "-")
    return name.replace("--no-", "--", 1)


def _split(lora: str) -> tuple[str, str | None]:
    """Path and strength of `A:0.8`; a path that is there is a path alone."""
    match = _WITH_STRENGTH.fullmatch(lora)
    if match is None or Path(lora).exists():
        return lora, None
    return match["place"], match["strength"]
