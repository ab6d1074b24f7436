"""Prompts from where users have them: text, CSV, JSONL and Parquet files, the Hub, the Shapes world."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, cast, get_args

from activation_store.files import canonical
from unbox.capture.prompt_columns import Located, Wanted, columns_read, hub_rows
from unbox.errors import UnboxError
from unbox.prompt import Prompt
from unbox.text_files import check_file, lines_of, parse_json_text
from unbox.validation import Text, behind, checked

#: Columns that hold the prompt, in the order they are looked for, in upper or lower case.
COLUMNS = ("prompt", "text", "caption")

#: Characters of a prompt at most: a guard against reading the wrong column or file.
LONGEST = 20_000

#: What separates columns in files that are called .csv and are none of ours.
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


class PromptFile:
    """Prompts of a file, read anew by each loop, a row at a time; its length is counted by reading it
    through once.

    So a row without a prompt is found before anything is made.
    """

    def __init__(self, path: Path, column: str | None = None, facts: Sequence[str] | None = None) -> None:
        self.path, self._column, self._facts = path, column, facts
        if next(iter(self), None) is None:
            raise UnboxError(f"there are no prompts in {path}")

    def __iter__(self) -> Iterator[Prompt]:
        return READERS[self.path.suffix.lower()](self.path, self._column, self._facts)

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        return sum(1 for _ in self)


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
    on the Hub too, no other columns are read. Files have a length.
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
        return _prompts(rows, column, facts)
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


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a file that are not blank, and where each is."""
    with closing(lines_of(path)) as lines:  # also where an error keeps them
        yield from ((line, f"line {i} of {path}") for i, line in enumerate(lines, 1) if line.strip())


def _text(path: Path, column: str | None, facts: Sequence[str] | None) -> Iterator[Prompt]:
    return (_prompt(checked(Text, "prompt", line, where).strip(), {}, where) for line, where in _lines(path))


def _jsonl(path: Path, column: str | None, facts: Sequence[str] | None) -> Iterator[Prompt]:
    def rows() -> Iterator[Located]:
        for line, where in _lines(path):
            row = parse_json_text(line, where)
            if not isinstance(row, Mapping):
                raise UnboxError(f"{where} is not an object with a prompt")
            yield row, where

    return _prompts(rows(), column, facts)


def _csv(path: Path, column: str | None, facts: Sequence[str] | None) -> Iterator[Prompt]:
    with closing(lines_of(path)) as lines:
        yield from _prompts(_csv_rows(path, lines), column, facts)


def _csv_rows(path: Path, text: Iterable[str]) -> Iterator[Located]:
    """Rows of a comma-separated file, as strict as RFC 4180: what another reader would read otherwise (an
    unquoted comma, a quote that is not closed, a cell too few) is refused by the number of its row."""
    rows, number, header, before = csv.reader(text, strict=True), 0, None, 0
    while True:
        where = f"row {number} (line {before + 1}) of {path}" if header else f"the header of {path}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            reason = "a quote is not closed" if "end of data" in str(error) else error
            raise UnboxError(f"{where} is not CSV: {reason}; a quote inside quotes is doubled") from None
        lines, before = rows.line_num - before, rows.line_num
        if not row or (len(row) == 1 and row[0] and not row[0].strip()):
            continue
        if header is None:
            header = _header(row, path)
        else:
            _check_cells(row, header, lines, where)
            yield dict(zip(header, row, strict=True)), where
        number += 1


def _header(names: Sequence[str], path: Path) -> Sequence[str]:
    """The columns' names. Raises UnboxError where two are the same, or another character divides them."""
    if len(names) == 1 and (mark := next((mark for mark in _SEPARATORS if mark in names[0]), None)):
        raise UnboxError(
            f"{path} has one column, {names[0][:80]!r}: it is separated by {_SEPARATORS[mark]}; save it with "
            "commas, or as .jsonl"
        )
    _check_unique(names, path)
    return names


def _check_unique(names: Sequence[str], path: Path) -> None:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UnboxError(f"{path} has two columns called {twice!r}: give each a name of its own")
    if names.count("") > 1:
        raise UnboxError(f"{path} has {names.count('')} columns without a name: name them or take them out")


def _check_cells(row: Sequence[str], header: Sequence[str], lines: int, where: str) -> None:
    if len(row) != len(header):
        hint = (
            "a prompt with a comma stands in double quotes" if len(row) > len(header) else "cells are missing"
        )
        raise UnboxError(f"{where} has {len(row)} cells and the header {len(header)}: {hint}")
    if lines > 1 and len(header) > 1:
        for cell in row:
            for line in cell.splitlines() if "\n" in cell or "\r" in cell else ():
                if line.count(",") == len(header) - 1:
                    raise UnboxError(
                        f"{where} goes over {lines} lines, and {line[:60]!r} in it looks like a row of its "
                        "own: is a quote not closed? What is meant so can be given as .jsonl"
                    )


def _parquet(path: Path, column: str | None, facts: Sequence[str] | None) -> Iterator[Prompt]:
    return _prompts(_parquet_rows(path, _wanted(column, facts)), column, facts)


def _parquet_rows(path: Path, wanted: Wanted) -> Iterator[Located]:
    """Rows of a Parquet file, a thousand in memory; columns that JSON cannot say (pictures) are not read, nor
    those that nobody wants.

    Raises UnboxError where one that JSON cannot say has a name of the prompt's.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UnboxError(f"reading {path} needs pyarrow: pip install 'unbox[data]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            _check_unique(schema.names, path)
            names = columns_read(schema, wanted)
            for each in schema:
                if each.name not in names and each.name.lower() in wanted.prompt:
                    raise UnboxError(f"the column {each.name} of {path} is of type {each.type}, not text")
            rows = (row for b in file.iter_batches(batch_size=1024, columns=names) for row in b.to_pylist())
            for number, row in enumerate(rows, 1):
                yield row, f"row {number} of {path}"
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UnboxError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from None


READERS: Mapping[str, Callable[[Path, str | None, Sequence[str] | None], Iterator[Prompt]]] = {
    ".txt": _text,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
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


def _prompts(rows: Iterable[Located], column: str | None, facts: Sequence[str] | None) -> Iterator[Prompt]:
    """The prompt of each row of a table, the other columns (or `facts`) its facts."""
    for number, (row, where) in enumerate(rows):
        key = _column_of(row, column, where)
        if number == 0 and (absent := [name for name in facts or () if name not in row]):
            names = ", ".join(str(name)[:40] for name in islice(row, 10))
            raise UnboxError(f"{where} has no column {absent[0]} to be a fact; it has {names}")
        others = {k: v for k, v in row.items() if k != key and (facts is None or k in facts)}
        yield _prompt(row[key], {k: v for k, v in others.items() if _is_plain(v)}, where)


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
