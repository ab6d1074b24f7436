"""RIEBench's examples: pairs of prompts, from a file in its format."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Len

from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.text_files import read_json_file
from unbox.validation import Count, Text, checked

#: `editing_type_id` -> kind.
KINDS = dict(
    enumerate(
        ("change object", "add object", "delete object", "change content", "change pose", "change colour",
         "change material", "change background", "change style"),
        start=1,
    )
)  # fmt: skip

#: What an example's images are called by.
ExampleId = Annotated[Text, Len(1, 200)]
FIELDS = ("id", "editing_type_id", "original_prompt", "editing_prompt")


@dataclass(frozen=True)
class EditExample:
    """One pair of prompts, brackets taken out; `..._words`: what was in brackets."""

    id: str
    kind: str
    original: str
    edited: str
    original_words: tuple[str, ...]
    edited_words: tuple[str, ...]


def read_examples(path: str | Path, limit: int | None = None) -> list[EditExample]:
    """Examples of a file in RIEBench's format. Raises UnboxError, naming the entry, for one that is not."""
    limit = None if limit is None else checked(Count, "limit", limit, "read_examples")
    data = read_json_file(path)
    if not isinstance(data, list) or not data:
        raise UnboxError(f"{path} is not a list of examples: it {'is empty' if data == [] else 'has none'}")
    examples = [_example(row, place, path) for place, row in enumerate(data[:limit])]
    names = [example.id for example in examples]
    twice, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise UnboxError(f"{path}: two examples have the id {twice}, which names their images")
    return examples


def _example(row: JSON, place: int, path: str | Path) -> EditExample:
    if not isinstance(row, dict) or not row.keys() >= set(FIELDS):
        missing = next(name for name in FIELDS if not isinstance(row, dict) or name not in row)
        raise UnboxError(f"{path}: example {place} has no {missing}; each needs {', '.join(FIELDS)}")
    asked = str(row["editing_type_id"]).strip()
    kind = KINDS.get(int(asked)) if asked.isdecimal() and len(asked) < 9 else None
    if kind is None:
        raise UnboxError(f"{path}: example {place} is of type {asked[:40]}; types are 1 to {len(KINDS)}")
    original, edited = (
        checked(Text, name, row[name], f"{path}: example {place}")
        for name in ("original_prompt", "editing_prompt")
    )
    name = str(row["id"]) if type(row["id"]) is int else row["id"]
    name = checked(ExampleId, "id", name, f"{path}: example {place}")
    return EditExample(name, kind, _plain(original), _plain(edited), _bracketed(original), _bracketed(edited))


def _plain(prompt: str) -> str:
    return prompt.replace("[", "").replace("]", "")


def _bracketed(prompt: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\[([^\]]*)\]", prompt))
