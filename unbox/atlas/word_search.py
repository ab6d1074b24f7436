"""A search by words that finds nothing: what it may have meant, and what comes nearest to it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from unbox.atlas import database
from unbox.atlas.feature_records import Facts

#: Letters of a word that is taken for one mistyped, at least; words that are named where none was found.
TYPED, NAMED = 3, 40

#: Features by a text, by all of its words or (True) by one of them.
Search = Callable[[str, bool], list[Facts]]


@dataclass(frozen=True)
class WordSearch:
    """What a search by words found."""

    found: list[Facts]
    note: str = ""
    """What was searched for instead, where no feature has all of the words; empty where some have."""


def find_words(search: Search, text: str, vocabulary: Callable[[], Mapping[str, int]]) -> WordSearch:
    """Features with all words of a text; else with those that a letter in each was mistyped for; else with
    one of the words. `vocabulary`: words that can be found, and how many features have each; it is asked
    where none has all."""
    found, words = search(text, False), database.words_of(text)
    if found or not words or text.strip().isdigit():
        return WordSearch(found)
    known = vocabulary()
    meant = {word: meant_by(word.lower(), known) for word in words}
    typed = {word: other for word, other in meant.items() if other and other != word.lower()}
    unknown = [word for word, other in meant.items() if not other]
    notes = [f"'{word}' is not known here, '{other}' is." for word, other in typed.items()]
    if typed and not unknown and (found := search(" ".join(filter(None, meant.values())), False)):
        return WordSearch(found, " ".join(notes))
    if unknown:
        notes.append(f"No label and no caption word of a feature is {', '.join(map(repr, unknown))}.")
    if others := [other for other in meant.values() if other]:
        found = search(" ".join(others), True)
        if len(words) > 1:
            notes.append("No feature has all of these words; these have some.")
        return WordSearch(found, " ".join(notes))
    common = sorted(known, key=lambda word: (-known[word], word))[:NAMED]
    if common:
        notes.append(
            f"Words that can be found: {', '.join(sorted(common))}{'' if len(known) <= NAMED else ', ...'}"
        )
    return WordSearch([], " ".join(notes))


def meant_by(word: str, known: Mapping[str, int]) -> str:
    """The word itself where one of the vocabulary begins so, else the most frequent that differs in a letter
    (left out, put in, another, or two that changed places); empty where there is none."""
    if any(other.startswith(word) for other in known):
        return word
    letters = sorted({letter for other in known for letter in other})
    near = set(_near(word, letters)) & set(known) if len(word) >= TYPED else set()
    return max(near, key=lambda other: (known[other], other), default="")


def _near(word: str, letters: list[str]) -> Iterator[str]:
    for i in range(len(word) + 1):
        head, tail = word[:i], word[i:]
        yield head + tail[1:]
        if len(tail) > 1:
            yield head + tail[1] + tail[0] + tail[2:]
        for letter in letters:
            yield head + letter + tail
            yield head + letter + tail[1:]
