"""Prompts from where users have them: text, CSV, JSONL and Parquet files, the Hub, the Shapes world."""

import csv
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast, get_args

from activation_store.files import parse_json
from unbox.words import Prompt, UnboxError

#: Columns that hold the prompt, in the order they are looked for.
COLUMNS = ("prompt", "text", "caption")

#: Characters of a prompt at most: a guard against reading the wrong column or file.
LONGEST = 20_000


def read_prompts(source: str, seed: int = 0, split: str = "train") -> Iterator[Prompt]:
    """Prompts of `source`, one by one, as they are needed.

    `source`: "shapes" (endless captions of the Shapes world, by `seed`; `split` "train" or "heldout"),
    "hub:NAME" (a data set of the Hub, streamed, its `split`), or a file: .txt (one prompt a line), .csv,
    .jsonl (columns prompt, text or caption; the others become facts of the prompt), .parquet.
    Raises UnboxError for files that are not there or empty, other endings, and rows without a prompt.
    """
    if source == "shapes":
        return _shapes(seed, split)
    if source.startswith("hub:"):
        return _rows(_hub(source.removeprefix("hub:"), split), source)
    path = Path(source)
    if path.suffix not in READERS:
        raise UnboxError(
            f"prompts come from shapes, hub:NAME, or a file ending in {', '.join(READERS)}, "
            f"not from '{source}'"
        )
    if not path.is_file():
        raise UnboxError(f"there is no file of prompts at {path}")
    prompts = READERS[path.suffix](path)
    first = next(prompts, None)
    if first is None:
        raise UnboxError(f"there are no prompts in {path}")
    return chain([first], prompts)


def _text(path: Path) -> Iterator[Prompt]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _prompt(line.strip(), {}, f"line {number} of {path}")


def _csv(path: Path) -> Iterator[Prompt]:
    with open(path, encoding="utf-8", newline="") as file:
        yield from _rows(csv.DictReader(file), str(path))


def _jsonl(path: Path) -> Iterator[Prompt]:
    def rows() -> Iterator[Any]:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield parse_json(line, f"line {number} of {path}")

    yield from _rows(rows(), str(path))


def _parquet(path: Path) -> Iterator[Prompt]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UnboxError(f"reading {path} needs pyarrow: pip install 'unbox[data]'") from None
    batches = parquet.ParquetFile(path).iter_batches(batch_size=4096)
    yield from _rows((row for batch in batches for row in batch.to_pylist()), str(path))


READERS: Mapping[str, Callable[[Path], Iterator[Prompt]]] = {
    ".txt": _text,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}


def _hub(name: str, split: str) -> Iterator[Mapping[str, Any]]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise UnboxError(f"reading hub:{name} needs datasets: pip install 'unbox[data]'") from None
    return iter(load_dataset(name, split=split, streaming=True))


def _shapes(seed: int, split: str) -> Iterator[Prompt]:
    """The endless list that `unbox.shapes.prompts` begins; drawn again at double the length when it runs
    out.
    """
    from unbox.shapes import prompts
    from unbox.shapes.scene import Split

    if split not in get_args(Split):
        raise UnboxError(f"the Shapes world has the splits {', '.join(get_args(Split))}; not '{split}'")
    seen = 0
    while True:
        drawn = prompts(max(1000, 2 * seen), seed=seed, split=cast(Split, split))
        yield from drawn[seen:]
        seen = len(drawn)


def _rows(rows: Iterator[Any] | csv.DictReader, name: str) -> Iterator[Prompt]:
    for number, row in enumerate(rows):
        where = f"row {number} of {name}"
        if not isinstance(row, Mapping):
            raise UnboxError(f"{where} is not an object with a prompt")
        column = next((column for column in COLUMNS if column in row), None)
        if column is None:
            found = ", ".join(map(str, islice(row, 10)))
            raise UnboxError(f"{where} has no column {', '.join(COLUMNS)}; it has {found}")
        yield _prompt(row[column], {k: v for k, v in row.items() if k != column and _is_plain(v)}, where)


def _prompt(text: Any, meta: Mapping[str, Any], where: str) -> Prompt:
    if not isinstance(text, str) or len(text) > LONGEST:
        raise UnboxError(f"{where} holds no prompt: it is not text, or over {LONGEST:,} characters")
    nested = meta.get("meta")
    return Prompt(text, nested if isinstance(nested, Mapping) and len(meta) == 1 else meta)


def _is_plain(value: Any) -> bool:
    """Whether a value is JSON and worth keeping: numbers, text, lists and objects of them; no bytes, no
    images.
    """
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return (
        value is None
        or isinstance(value, str | bool | int)
        or (isinstance(value, float) and value - value == 0)
    )
