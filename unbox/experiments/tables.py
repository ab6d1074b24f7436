"""Tables of results: rows of named cells, as files and as Markdown."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from activation_store.files import publish_file, write_text
from unbox.json_types import JSON

Row = Mapping[str, JSON]
Table = Sequence[Row]


def write_table(path: Path, table: Table) -> None:
    """CSV, and Parquet beside it where pyarrow is installed."""
    columns = list(dict.fromkeys(name for row in table for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _cell(v) for k, v in row.items()} for row in table)
    write_text(path, text.getvalue())
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return
    arrays = pyarrow.table({name: [_cell(row.get(name)) for row in table] for name in columns})
    with publish_file(path.with_suffix(".parquet")) as temporary:
        parquet.write_table(arrays, temporary)


def _cell(value: JSON) -> str | int | float | None:
    """What a table's cell can hold: numbers and text."""
    return value if value is None or isinstance(value, int | float | str) else str(value)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
