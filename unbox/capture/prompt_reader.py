"""Prompts from where users have them: text, CSV, JSONL and Parquet files, the Hub, the Shapes world."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, cast, get_args

from activation_store.files import canonical, parse_json
from unbox.errors import UnboxError
from unbox.prompt import Prompt

#: Columns that hold the prompt, in the order they are looked for, in upper or lower case.
COLUMNS = ("prompt", "text", "caption")

#: Characters of a prompt at most: a guard against reading the wrong column or file.
LONGEST = 20_000


class PromptFile:
    """Prompts of a file, read anew by each loop; its length is counted by reading it through once.

    So a row without a prompt is found before anything is made.
    """

    def __init__(self, path: Path, column: str | None = None) -> None:
        self.path, self._column = path, column
        if next(iter(self), None) is None:
            raise UnboxError(f"there are no prompts in {path}")

    def __iter__(self) -> Iterator[Prompt]:
        return READERS[self.path.suffix](self.path, self._column)

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        return sum(1 for _ in self)


def read_prompts(
    source: str, seed: int = 0, split: str = "train", column: str | None = None
) -> Iterable[Prompt]:
    """Prompts of `source`, one by one, as they are needed.

    `source`: "shapes" (endless captions of the Shapes world, by `seed`; `split` "train" or "heldout"),
    "hub:NAME" or "hub:NAME:CONFIG" (a data set of the Hub, streamed, its `split`), or a file: .txt (one
    prompt a line), .csv, .jsonl, .parquet. `column` names the column of the prompt; None takes the first
    of prompt, text and caption (in any case) that there is. The other columns become facts of the prompt.
    Files have a length. Raises UnboxError for files that are not there or empty, other endings, data sets
    that cannot be read, and rows without a prompt.
    """
    if source == "shapes" and column is None:
        return _shapes(seed, split)
    if source.startswith("hub:"):
        return _rows(_hub(source.removeprefix("hub:"), split), source, column)
    path = Path(source)
    if column is not None and (source == "shapes" or path.suffix == ".txt"):
        raise UnboxError(f"{source} has no columns, so there is no column {column} to choose")
    if path.suffix not in READERS:
        known = f"shapes, hub:NAME, or a file ending in {', '.join(READERS)}"
        raise UnboxError(f"prompts come from {known}, not from '{source}'")
    if not path.is_file():
        raise UnboxError(f"there is no file of prompts at {path}")
    return PromptFile(path, column)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a file that are not blank, and where each is."""
    with open(path, encoding="utf-8") as file:
        yield from ((text, f"line {i} of {path}") for i, line in enumerate(file, 1) if (text := line.strip()))


def _text(path: Path, column: str | None) -> Iterator[Prompt]:
    return (_prompt(line, {}, where) for line, where in _lines(path))


def _csv(path: Path, column: str | None) -> Iterator[Prompt]:
    with open(path, encoding="utf-8", newline="") as file:
        yield from _rows(csv.DictReader(file), str(path), column)


def _jsonl(path: Path, column: str | None) -> Iterator[Prompt]:
    return _rows((parse_json(line, where) for line, where in _lines(path)), str(path), column)


def _parquet(path: Path, column: str | None) -> Iterator[Prompt]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UnboxError(f"reading {path} needs pyarrow: pip install 'unbox[data]'") from None
    batches = parquet.ParquetFile(path).iter_batches(batch_size=4096)
    yield from _rows((row for batch in batches for row in batch.to_pylist()), str(path), column)


READERS: Mapping[str, Callable[[Path, str | None], Iterator[Prompt]]] = {
    ".txt": _text,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}


def _hub(source: str, split: str) -> Iterator[Mapping[str, Any]]:
    """Rows of a data set, downloaded as they are read; pictures in it are left as they are, not decoded."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise UnboxError(f"reading hub:{source} needs datasets: pip install 'unbox[data]'") from None
    name, _, config = source.partition(":")
    try:
        return iter(load_dataset(name, config or None, split=split, streaming=True).decode(False))
    except (OSError, ValueError) as error:
        raise UnboxError(f"the data set {source} (split {split}) cannot be read: {error}") from error


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


def _rows(rows: Iterable[Any], name: str, column: str | None) -> Iterator[Prompt]:
    for number, row in enumerate(rows):
        where = f"row {number} of {name}"
        if not isinstance(row, Mapping):
            raise UnboxError(f"{where} is not an object with a prompt")
        key = _column_of(row, column)
        if key is None:
            asked, found = column or ", ".join(COLUMNS), ", ".join(map(str, islice(row, 10)))
            raise UnboxError(f"{where} has no column {asked}; it has {found}. Choose one with --column")
        yield _prompt(row[key], {k: v for k, v in row.items() if k != key and _is_plain(v)}, where)


def _column_of(row: Mapping[str, Any], column: str | None) -> str | None:
    """The key of a row's prompt: `column`, or one of COLUMNS in any case; None where it has none."""
    if column is not None:
        return column if column in row else None
    lower = {str(key).lower(): key for key in row}
    return next((lower[name] for name in COLUMNS if name in lower), None)


def _prompt(text: Any, meta: Mapping[str, Any], where: str) -> Prompt:
    if not isinstance(text, str) or len(text) > LONGEST:
        raise UnboxError(f"{where} holds no prompt: it is not text, or over {LONGEST:,} characters")
    nested = meta.get("meta")
    return Prompt(text, nested if isinstance(nested, Mapping) and len(meta) == 1 else meta)


def _is_plain(value: Any) -> bool:
    """Whether a value is JSON and worth keeping: numbers, text, lists and objects; no bytes, no images."""
    try:
        return bool(canonical(value))
    except (TypeError, ValueError):
        return False
