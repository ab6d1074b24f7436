"""Rows of files of prompts, from any row on: one pass finds where every thousandth begins, and takes nothing
apart; what is read after that is what is asked for."""

import csv
import sys
from array import array
from bisect import bisect_right
from codecs import BOM_UTF8
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from unbox.capture.prompt_columns import Located, Wanted, columns_read
from unbox.errors import UnboxError
from unbox.text_files import lines_of, parse_json_text
from unbox.validation import Text, checked

if TYPE_CHECKING:
    import pyarrow
    from pyarrow import parquet

#: Rows between places that are known; rows of a Parquet file that are decoded at once.
STRIDE = 1024
#: What separates columns in files that are called .csv and are none of ours.
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


#: All the rows of a file.
ALL = (range(sys.maxsize),)


class RowFile(Protocol):
    """The rows of a file, numbered from 0."""

    def __len__(self) -> int:
        """Number of rows, which does not take them apart."""

    def rows(self, parts: Iterable[range] = ALL) -> Iterator[Located]:
        """The rows of some ranges, which ascend, and where each is. What lies between is not parsed."""


class Mark(NamedTuple):
    """Where a row of a text file begins: bytes and lines before it."""

    offset: int
    lines: int


class _Marks:
    """A text file that counts what is read of it, and the marks that were set."""

    def __init__(self, path: Path, at: Mark = Mark(0, 0)) -> None:  # noqa: B008 (a tuple)
        self.path, self.offset, self.lines = path, at.offset, at.lines

    def __iter__(self) -> Iterator[str]:
        with closing(lines_of(self.path, self.offset, self.lines)) as lines:
            for line in lines:
                if self.offset == 0 and _marked(self.path):
                    self.offset = len(BOM_UTF8)
                self.offset += len(line) if line.isascii() else len(line.encode())
                self.lines += 1
                yield line


def _marked(path: Path) -> bool:
    """Whether a file begins with a byte-order mark, which no line has."""
    with open(path, "rb") as file:
        return file.read(len(BOM_UTF8)) == BOM_UTF8


class _TextRows:
    """What files of lines have in common."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _pieces(self, text: _Marks, number: int) -> Iterator[object]:
        """What each row is made of, from a mark on, of which `number` rows come before."""
        raise NotImplementedError

    @cached_property
    def _index(self) -> tuple[int, array]:
        """The number of rows; offset and lines before of each STRIDE-th. One pass over the file."""
        text, count, marks = _Marks(self.path), 0, array("q")
        before = (text.offset, text.lines)
        for _ in self._pieces(text, 0):
            if count % STRIDE == 0:
                marks.extend(before)
            before = (text.offset, text.lines)
            count += 1
        return count, marks

    def __len__(self) -> int:
        return self._index[0]

    def _some(self, parts: Iterable[range]) -> Iterator[Any]:
        """What the rows of some ranges are made of; from one to the next by the mark before it."""
        pieces, at = self._pieces(_Marks(self.path), 0), 0
        for part in parts:
            if (place := part.start // STRIDE) > at // STRIDE and place * STRIDE < len(self):
                mark, at = Mark(*self._index[1][2 * place : 2 * place + 2]), place * STRIDE
                pieces = self._pieces(_Marks(self.path, mark), at)
            yield from islice(pieces, part.start - at, part.stop - at)
            at = part.stop


class LineRows(_TextRows):
    """Rows of a file with one a line, without those of blanks."""

    def __init__(self, path: Path, take_apart: Callable[[str, str], Mapping[str, Any]]) -> None:
        super().__init__(path)
        self._take_apart = take_apart

    def _pieces(self, text: _Marks, number: int) -> Iterator[tuple[str, int]]:
        return ((line, text.lines) for line in text if line.strip())

    def rows(self, parts: Iterable[range] = ALL) -> Iterator[Located]:
        for line, number in self._some(parts):
            where = f"line {number} of {self.path}"
            yield self._take_apart(line, where), where


def text_row(line: str, where: str) -> Mapping[str, str]:
    """The prompt of a line of a .txt, without the blanks around it."""
    return {"prompt": checked(Text, "prompt", line, where).strip()}


def json_row(line: str, where: str) -> Mapping[str, Any]:
    """The object of a line of a .jsonl."""
    row = parse_json_text(line, where)
    if not isinstance(row, Mapping):
        raise UnboxError(f"{where} is not an object with a prompt")
    return row


class _Cells(NamedTuple):
    """A row of a comma-separated file, as it came."""

    cells: Sequence[str]
    lines: int
    """How many lines it goes over."""
    where: str


class CsvRows(_TextRows):
    """Rows of a comma-separated file, as strict as RFC 4180: what another reader would read otherwise (an
    unquoted comma, a quote that is not closed, a cell too few) is refused by the number of its row."""

    def _pieces(self, text: _Marks, number: int) -> Iterator[_Cells]:
        return self._cells(text, number + bool(text.lines))

    def rows(self, parts: Iterable[range] = ALL) -> Iterator[Located]:
        header = self._header
        for row in self._some(parts):
            _check_cells(row, header)
            yield dict(zip(header, row.cells, strict=True)), row.where

    @cached_property
    def _header(self) -> Sequence[str]:
        """The columns' names. Raises UnboxError where two are the same, or another character divides them."""
        with closing(self._cells(_Marks(self.path), 0, header=True)) as rows:
            names = next(rows, _Cells((), 0, "")).cells
        if len(names) == 1 and (mark := next((mark for mark in _SEPARATORS if mark in names[0]), None)):
            raise UnboxError(
                f"{self.path} has one column, {names[0][:80]!r}: it is separated by {_SEPARATORS[mark]}; "
                "save it with commas, or as .jsonl"
            )
        _check_unique(names, self.path)
        return names

    def _cells(self, text: _Marks, number: int, header: bool = False) -> Generator[_Cells, None, None]:
        """Rows that are not blank, of them the `header` too; `number` of the first, 0 for the header."""
        lines = iter(text)
        rows = csv.reader(lines, strict=True)
        while True:
            where = (
                f"row {number} (line {text.lines + 1}) of {self.path}"
                if number
                else f"the header of {self.path}"
            )
            before = text.lines
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                reason = "a quote is not closed" if "end of data" in str(error) else error
                raise UnboxError(f"{where} is not CSV: {reason}; a quote inside quotes is doubled") from None
            if not row or (len(row) == 1 and row[0] and not row[0].strip()):
                continue
            if number or header:
                yield _Cells(row, text.lines - before, where)
            number += 1


def _check_unique(names: Sequence[str], path: Path) -> None:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UnboxError(f"{path} has two columns called {twice!r}: give each a name of its own")
    if names.count("") > 1:
        raise UnboxError(f"{path} has {names.count('')} columns without a name: name them or take them out")


def _check_cells(row: _Cells, header: Sequence[str]) -> None:
    if len(row.cells) != len(header):
        many = len(row.cells) > len(header)
        hint = "a prompt with a comma stands in double quotes" if many else "cells are missing"
        raise UnboxError(f"{row.where} has {len(row.cells)} cells and the header {len(header)}: {hint}")
    if row.lines > 1 and len(header) > 1:
        for cell in row.cells:
            for line in cell.splitlines() if "\n" in cell or "\r" in cell else ():
                if line.count(",") == len(header) - 1:
                    raise UnboxError(
                        f"{row.where} goes over {row.lines} lines, and {line[:60]!r} in it looks like a row "
                        "of its own: is a quote not closed? What is meant so can be given as .jsonl"
                    )


class ParquetRows:
    """Rows of a Parquet file, a thousand in memory. Columns that JSON cannot say (pictures) are not read, nor
    those that nobody wants, nor groups of rows of which none is asked for.

    Raises UnboxError where one that JSON cannot say has a name of the prompt's.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self.path, self._wanted = path, wanted

    def __len__(self) -> int:
        with self._open() as file:
            return int(file.metadata.num_rows)

    def rows(self, parts: Iterable[range] = ALL) -> Iterator[Located]:
        with self._open() as file:
            schema = file.schema_arrow
            _check_unique(schema.names, self.path)
            names = columns_read(schema, self._wanted)
            for each in schema:
                if each.name not in names and each.name.lower() in self._wanted.prompt:
                    raise UnboxError(
                        f"the column {each.name} of {self.path} is of type {each.type}, not text"
                    )
            for number, row in rows_of_groups(file, names, parts):
                yield row, f"row {number + 1} of {self.path}"

    @contextmanager
    def _open(self) -> "Iterator[parquet.ParquetFile]":
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise UnboxError(f"reading {self.path} needs pyarrow: pip install 'unbox[data]'") from None
        try:
            with parquet.ParquetFile(self.path) as file:
                yield file
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            told = " ".join(str(error).split())[:200]
            raise UnboxError(f"{self.path} cannot be read as Parquet: {told}") from None


def ranges_within(parts: Iterable[range], start: int, stop: int) -> list[range]:
    """What of some ranges lies in [start, stop), counted from `start`."""
    cut = (range(max(part.start, start) - start, min(part.stop, stop) - start) for part in parts)
    return [part for part in cut if part]


def rows_of_groups(
    file: "parquet.ParquetFile", names: list[str], parts: Iterable[range]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows of some ranges, which ascend, and their numbers: each group of rows is read through once."""
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    starts = [0, *accumulate(sizes)]
    group, base, batches = -1, 0, iter(())
    batch: pyarrow.RecordBatch | None = None
    for part in parts:
        at, stop = part.start, min(part.stop, starts[-1])
        while at < stop:
            if (other := bisect_right(starts, at) - 1) != group:
                group, base, batch = other, starts[other], None
                batches = file.iter_batches(batch_size=STRIDE, row_groups=[group], columns=names)
            while batch is None or base + len(batch) <= at:
                base, batch = base + (0 if batch is None else len(batch)), next(batches)
            end = min(stop, base + len(batch))
            yield from enumerate(batch.slice(at - base, end - at).to_pylist(), at)
            at = end
