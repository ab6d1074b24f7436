"""Which images of a store show which concept: by words of their prompts, or by a fact that came with them."""

import re
from collections.abc import Callable, Sequence

from activation_store import Store
from activation_store.samples import Sample
from unbox.errors import UnboxError
from unbox.validation import Count, Some, Text, checked

#: What images of no named concept are called together, where no others are named.
OTHERS = "others"


def concept_images(
    store: Store,
    erased: Sequence[str],
    others: Sequence[str] = (),
    *,
    fact: str | None = None,
    limit: int = 200,
) -> dict[str, list[int]]:
    """Concept -> the first `limit` of its images (numbers in the store), the erased concepts first.

    A concept is shown where the prompt has its words (whole words, whatever their case) or, with `fact`,
    where that fact of the prompt is it. Images of several of the concepts are left out. Without `others` all
    images of no erased concept are one, `others`; with `fact`, each of its other values is one. Raises
    UnboxError for a concept that no image shows.
    """
    erased = checked(Some[Text], "erased", erased, "concept_images")
    limit = checked(Count, "limit", limit, "concept_images")
    named = list(dict.fromkeys([*erased, *others]))
    of = _by_words(named) if fact is None else _by_fact(fact, named if others else None)
    found: dict[str, list[int]] = {name: [] for name in named}
    rest = OTHERS if fact is None and not others else None
    if rest is not None:
        found[rest] = []
    for number in range(len(store)):
        shown = of(store.samples[number]) or ([rest] if rest is not None else [])
        if len(shown) == 1 and len(images := found.setdefault(shown[0], [])) < limit:
            images.append(number)
        # Values of a fact are known when all have been read.
        if (fact is None or others) and all(len(images) == limit for images in found.values()):
            break
    if empty := next((name for name, images in found.items() if not images), None):
        what = "prompt has the words" if fact is None else f"prompt has the fact {fact}:"
        raise UnboxError(f"of the {len(store):,} images of {store.path} no {what} '{empty}' alone")
    return found


def _by_words(names: Sequence[str]) -> Callable[[Sample], list[str]]:
    patterns = {name: re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE) for name in names}
    return lambda sample: [name for name, pattern in patterns.items() if pattern.search(sample.prompt)]


def _by_fact(fact: str, names: Sequence[str] | None) -> Callable[[Sample], list[str]]:
    """Of a fact's value as a text; `names`: the values that count, None for all."""

    def shown(sample: Sample) -> list[str]:
        if fact not in sample.meta:
            return []
        value = str(sample.meta[fact])
        return [value] if names is None or value in names else []

    return shown
