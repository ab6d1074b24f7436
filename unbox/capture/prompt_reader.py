"""Prompts from where users have them: text, CSV, JSONL and Parquet files, the Hub, the Shapes world."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, cast, get_args

from activation_store.files import canonical
from unbox.capture.hub_rows import HubParquetRows, HubRows, hub_rows
from unbox.capture.prompt_columns import Located, Wanted
from unbox.capture.prompt_rows import CsvRows, LineRows, ParquetRows, RowFile, json_row, text_row
from unbox.errors import UnboxError
from unbox.models.prompt_weights import weighted_texts
from unbox.prompt import Prompt
from unbox.text_files import check_file
from unbox.validation import behind

#: Columns that hold the prompt, in the order they are looked for, in upper or lower case.
COLUMNS = ("prompt", "text", "caption")

#: Characters of a prompt at most: a guard against reading the wrong column or file.
LONGEST = 20_000


class HubPrompts:
    """Prompts of a data set of the Hub, streamed anew by each loop."""

    def __init__(
        self,
        rows: HubRows | HubParquetRows,
        column: str | None = None,
        facts: Sequence[str] | None = None,
    ) -> None:
        self._rows, self._column, self._facts = rows, column, facts

    def __iter__(self) -> Iterator[Prompt]:
        return _prompts(self._rows.rows(), self._column, self._facts)

    def parts(self, numbers: Iterable[range]) -> Iterator[Prompt]:
        """The prompts of some ranges of rows, which ascend. What lies between is not taken apart."""
        return _prompts(self._rows.rows(numbers), self._column, self._facts)


class CountedHubPrompts(HubPrompts):
    """Those of Parquet, whose number is known before they are read."""

    def __init__(
        self, rows: HubParquetRows, column: str | None = None, facts: Sequence[str] | None = None
    ) -> None:
        super().__init__(rows, column, facts)
        self._count = len(rows)

    def __len__(self) -> int:
        return self._count


class PromptFile:
    """Prompts of a file, read anew by each loop, a row at a time. Its length is known without taking rows
    apart; `check` does, so that a row without a prompt is found before anything is made."""

    def __init__(self, path: Path, column: str | None = None, facts: Sequence[str] | None = None) -> None:
        self.path, self._column, self._facts = path, column, facts
        self._rows = READERS[path.suffix.lower()](path, _wanted(column, facts))
        if next(iter(self), None) is None:
            raise UnboxError(f"there are no prompts in {path}")

    def __iter__(self) -> Iterator[Prompt]:
        return _prompts(self._rows.rows(), self._column, self._facts)

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        return len(self._rows)

    def parts(self, numbers: Iterable[range]) -> Iterator[Prompt]:
        """The prompts of some ranges of rows, which ascend. What lies between is not taken apart."""
        return _prompts(self._rows.rows(numbers), self._column, self._facts)

    def check(self, rank: int = 0, world: int = 1, weights: bool = False) -> None:
        """Read one of `world` equal parts, and of its prompts the `weights`. Raises UnboxError for what is
        wrong with a row of it."""
        rows = self._rows.rows([range(len(self) * rank // world, len(self) * (rank + 1) // world)])
        for _ in _prompts(rows, self._column, self._facts, weights):
            pass


def read_prompts(
    source: str,
    seed: int = 0,
    split: str | None = None,
    column: str | None = None,
    facts: Sequence[str] | None = None,
) -> Iterable[Prompt]:
    """Prompts of `source`, one by one, as they are needed.

    `source`: "shapes" (endless captions of the Shapes world, by `seed`; `split` "train" or "heldout"),
    "hub:NAME" or "hub:NAME:CONFIG" (a data set of the Hub, streamed, its `split`), NAME also with a commit,
    branch or tag as "NAME@REVISION", or a file in UTF-8: .txt
    (one prompt a line), .csv, .jsonl, .parquet. `split` None is "train"; files have none. `column` names the
    column of the prompt; None takes the first of prompt, text and caption (in any case) that there is. The
    other columns become facts of the prompt, where JSON can say them, or those of `facts` alone. Of Parquet,
    on the Hub too, no other columns are read. Files have a length, and data sets of Parquet.
    Lines of blanks alone are passed over; blanks around the prompts of a .txt are taken off, those in tables
    are kept. Raises UnboxError, naming file and line or row (from 1), for files that are not there or empty,
    other endings and encodings, data sets that cannot be read, and rows whose prompt is missing, empty, no
    text, over LONGEST characters or holds control characters.
    """
    chosen = [column] if column is not None else list(facts or ())
    if source == "shapes" and column is None and facts is None:
        return _shapes(seed, split or "train")
    if source.startswith("hub:"):
        rows = hub_rows(source.removeprefix("hub:"), split or "train", _wanted(column, facts))
        if isinstance(rows, HubParquetRows):
            return CountedHubPrompts(rows, column, facts)
        return HubPrompts(rows, column, facts)
    path = Path(source)
    if (column is not None or facts is not None) and (source == "shapes" or path.suffix.lower() == ".txt"):
        raise UnboxError(f"{source} has no columns, so there is no column {', '.join(chosen)} to choose")
    if os.path.exists(path):
        check_file(path)
    if path.suffix.lower() not in READERS:
        known = f"shapes, hub:NAME, or a file ending in {', '.join(READERS)}"
        raise UnboxError(f"prompts come from {known}, not from '{source}'")
    if not path.exists():
        raise UnboxError(f"there is no file of prompts at {path}")
    if split is not None:
        raise UnboxError(f"{source} is a file and has no split {split}: leave the split (--split) out")
    return PromptFile(path, column, facts)


#: Ending -> the rows of a file, of the columns that are wanted.
READERS: Mapping[str, Callable[[Path, Wanted], RowFile]] = {
    ".txt": lambda path, wanted: LineRows(path, text_row),
    ".csv": lambda path, wanted: CsvRows(path),
    ".jsonl": lambda path, wanted: LineRows(path, json_row),
    ".parquet": ParquetRows,
}


def _shapes(seed: int, split: str) -> Iterator[Prompt]:
    """The endless list that `unbox.shapes.prompts` begins; drawn again at double the length at its end."""
    from unbox.shapes import prompts
    from unbox.shapes.scene import Split

    if split not in get_args(Split):
        raise UnboxError(f"the Shapes world has the splits {', '.join(get_args(Split))}; not '{split}'")
    count = 0
    while True:
        drawn = prompts(max(1000, 2 * count), seed=seed, split=cast(Split, split))
        yield from drawn[count:]
        count = len(drawn)


def _prompts(
    rows: Iterable[Located], column: str | None, facts: Sequence[str] | None, weights: bool = False
) -> Iterator[Prompt]:
    """The prompt of each row of a table, the other columns (or `facts`) its facts; `weights` are checked."""
    for number, (row, where) in enumerate(rows):
        key = _column_of(row, column, where)
        if number == 0 and (absent := [name for name in facts or () if name not in row]):
            names = ", ".join(str(name)[:40] for name in islice(row, 10))
            raise UnboxError(f"{where} has no column {absent[0]} to be a fact; it has {names}")
        others = {k: v for k, v in row.items() if k != key and (facts is None or k in facts)}
        prompt = _prompt(row[key], {k: v for k, v in others.items() if _is_plain(v)}, where)
        if weights:
            with behind(where):
                weighted_texts(prompt.text)
        yield prompt


def _wanted(column: str | None, facts: Sequence[str] | None) -> Wanted:
    return Wanted(COLUMNS if column is None else (column.lower(),), facts)


def _column_of(row: Mapping[str, Any], column: str | None, where: str) -> str:
    """The key of a row's prompt: `column`, or one of COLUMNS in any case. UnboxError for none or two."""
    found = [key for key in row if key == column]
    for name in COLUMNS if column is None else ():
        found = found or [key for key in row if str(key).lower() == name]
    if len(found) > 1:
        names = " and ".join(name[:40] for name in found[:3])
        raise UnboxError(f"{where} has columns {names}: choose one with --column")
    if not found:
        asked, names = column or ", ".join(COLUMNS), ", ".join(str(name)[:40] for name in islice(row, 10))
        raise UnboxError(f"{where} has no column {asked}; it has {names or 'none'}. Choose one with --column")
    return found[0]


def _prompt(text: Any, meta: Mapping[str, Any], where: str) -> Prompt:
    if text is None or (isinstance(text, str) and not text.strip()):
        raise UnboxError(f"{where} holds no prompt: it is empty; take the row out, or give it a text")
    if not isinstance(text, str):
        raise UnboxError(f"{where} holds no prompt: it is {type(text).__name__} {str(text)[:40]!r}, not text")
    if len(text) > LONGEST:
        raise UnboxError(f"{where} holds no prompt: it is over {LONGEST:,} characters")
    nested = meta.get("meta")
    with behind(where):
        return Prompt(text, nested if isinstance(nested, Mapping) and len(meta) == 1 else meta)


def _is_plain(value: Any) -> bool:
    """Whether a value is JSON and worth keeping: numbers, text, lists and objects; no bytes, no images."""
    try:
        return bool(canonical(value))
    except (TypeError, ValueError):
        return False
