"""Rows of data sets of the Hub, from any row on: what is not asked for is not taken apart, and of Parquet,
which most are, not fetched."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from unbox.capture.prompt_columns import Located, Wanted, columns_read
from unbox.capture.prompt_rows import ALL, ranges_within, rows_of_groups
from unbox.errors import UnboxError

if TYPE_CHECKING:
    from pyarrow import parquet

#: Rows of a data set that are decoded at once.
_AT_ONCE = 1024

#: Files whose number of rows is asked for at a time.
_ASKED = 16


def hub_rows(source: str, split: str, wanted: Wanted) -> "HubRows | HubParquetRows":
    """Rows of a data set of the Hub, `NAME`, `NAME:CONFIG`, `NAME@REVISION:CONFIG`, fetched as they are read.

    Of Parquet no other columns than `columns_read` are fetched. Raises UnboxError where it cannot be read.
    """
    try:
        from datasets import load_dataset_builder
        from datasets.packaged_modules.parquet.parquet import ParquetConfig
    except ImportError:
        raise UnboxError(f"reading hub:{source} needs datasets: pip install 'unbox[data]'") from None
    place, _, config = source.partition(":")
    name, _, revision = place.partition("@")
    with _said_of(source, split):
        builder = load_dataset_builder(name, config or None, revision=revision or None)
        if isinstance(builder.config, ParquetConfig) and split in (builder.config.data_files or ()):
            paths = [str(path) for path in builder.config.data_files[split]]
            if all(path.endswith(".parquet") for path in paths):
                return HubParquetRows(source, split, paths, wanted)
        rows = builder.as_streaming_dataset(split=split)
        if rows.features is not None and (names := columns_read(rows.features.arrow_schema, wanted)):
            rows = rows.select_columns(names)  # none: the row says what there is
        if rows.features is not None:
            rows = rows.decode(False)  # pictures stay bytes
    return HubRows(source, split, rows.with_format("arrow"))


class HubRows:
    """Rows that are streamed from the first on, whatever is asked for; their number is not known."""

    def __init__(self, source: str, split: str, data: Any) -> None:
        """`data`: an `IterableDataset` of Arrow tables."""
        self._source, self._split, self._data = source, split, data

    def rows(self, parts: Iterable[range] = ALL) -> Iterator[Located]:
        """The rows of some ranges, which ascend, and where each is. What lies between is not taken apart."""
        at, ranges = 0, iter(parts)
        if (part := next(ranges, None)) is None:
            return
        with _said_of(self._source, self._split):
            for table in self._data.iter(_AT_ONCE):
                end = at + len(table)
                while part.start < end:
                    first, stop = max(part.start, at), min(part.stop, end)
                    some = table.slice(first - at, max(0, stop - first)).to_pylist()
                    yield from _located(enumerate(some, first), self._source)
                    if part.stop > end:
                        break
                    if (part := next(ranges, None)) is None:
                        return
                at = end


class HubParquetRows:
    """Rows of Parquet files that lie on the Hub. Their number is in the files' footers: a request for each.
    Of a file's groups of rows those are fetched of which some are asked for."""

    def __init__(self, source: str, split: str, paths: list[str], wanted: Wanted) -> None:
        self._source, self._split, self._paths, self._wanted = source, split, paths, wanted

    def __len__(self) -> int:
        return self._starts[-1]

    @cached_property
    def _starts(self) -> list[int]:
        """The number of the first row of each file, and that of all rows."""

        def count(path: str) -> int:
            with self._open(path) as file:
                return int(file.metadata.num_rows)

        with _said_of(self._source, self._split), ThreadPoolExecutor(_ASKED) as threads:
            return [0, *accumulate(threads.map(count, self._paths))]

    def rows(self, parts: Iterable[range] = ALL) -> Iterator[Located]:
        """The rows of some ranges, which ascend, and where each is."""
        if parts is ALL:  # how many there are need not be known
            first = 0
            for path in self._paths:
                with _said_of(self._source, self._split), self._open(path) as file:
                    yield from self._of_file(file, first, ALL)
                    first += file.metadata.num_rows
            return
        listed = list(parts)
        for path, first, stop in zip(self._paths, self._starts, self._starts[1:], strict=False):
            if inside := ranges_within(listed, first, stop):
                with _said_of(self._source, self._split), self._open(path) as file:
                    yield from self._of_file(file, first, inside)

    def _of_file(self, file: "parquet.ParquetFile", first: int, parts: Iterable[range]) -> Iterator[Located]:
        names = columns_read(file.schema_arrow, self._wanted)
        names = names or file.schema_arrow.names  # none: the row says what there is
        rows = ((first + number, row) for number, row in rows_of_groups(file, names, parts))
        yield from _located(rows, self._source)

    @contextmanager
    def _open(self, path: str) -> "Iterator[parquet.ParquetFile]":
        from fsspec.core import url_to_fs
        from pyarrow import parquet

        with ExitStack() as stack:
            system, place = url_to_fs(path)
            remote = stack.enter_context(system.open(place, "rb", cache_type="none"))
            yield stack.enter_context(parquet.ParquetFile(remote, pre_buffer=True))


def _located(rows: Iterable[tuple[int, Mapping[str, Any]]], source: str) -> Iterator[Located]:
    return ((row, f"row {number + 1} of hub:{source}") for number, row in rows)


@contextmanager
def _said_of(source: str, split: str) -> Iterator[None]:
    """What a data set or the network refuses becomes an UnboxError that names the data set."""
    from huggingface_hub.errors import HTTPError
    from pyarrow import ArrowException

    try:
        yield
    except (HTTPError, ArrowException, OSError, ValueError) as error:
        raise UnboxError(f"the data set {source} (split {split}) cannot be read: {error}") from error
