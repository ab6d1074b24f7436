"""Which columns of a table of prompts are read, by one rule for Parquet files and data sets of the Hub."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from unbox.errors import UnboxError

if TYPE_CHECKING:
    import pyarrow

#: A row of a table, and where it is, for errors.
Located = tuple[Mapping[str, Any], str]

#: Rows of a data set that are decoded at once.
_AT_ONCE = 1024


class Wanted(NamedTuple):
    """The columns that are asked for."""

    prompt: Sequence[str]
    """What the prompt's may be called, in lower case."""
    facts: Sequence[str] | None
    """The others; None: all that JSON can say."""


def columns_read(schema: "pyarrow.Schema", wanted: Wanted) -> list[str]:
    """The columns that JSON can say and somebody wants: no pictures."""
    plain = [each.name for each in schema if _is_json_type(each.type)]
    facts = plain if wanted.facts is None else wanted.facts
    return [name for name in plain if name in facts or name.lower() in wanted.prompt]


def hub_rows(source: str, split: str, wanted: Wanted) -> Iterator[Located]:
    """Rows of a data set of the Hub, `NAME`, `NAME:CONFIG`, `NAME@REVISION:CONFIG`, fetched as they are read.

    Of Parquet, which most are, other columns than `columns_read` are not downloaded.
    """
    try:
        from datasets import load_dataset, load_dataset_builder
    except ImportError:
        raise UnboxError(f"reading hub:{source} needs datasets: pip install 'unbox[data]'") from None
    place, _, config = source.partition(":")
    name, _, revision = place.partition("@")
    given = {"path": name, "name": config or None, "revision": revision or None}
    try:
        rows = load_dataset(**given, split=split, streaming=True)
        if (features := rows.features) is not None:
            names = columns_read(features.arrow_schema, wanted)
            names = names or list(features)  # none: the row says what there is
            if hasattr(load_dataset_builder(**given).config, "columns"):
                rows = load_dataset(**given, split=split, streaming=True, columns=names)
            else:
                rows = rows.select_columns(names)
        batches = iter(rows.decode(False).with_format("arrow").iter(_AT_ONCE))
    except (OSError, ValueError) as error:
        raise UnboxError(f"the data set {source} (split {split}) cannot be read: {error}") from error
    rows_of = (row for batch in batches for row in batch.to_pylist())
    return ((row, f"row {number} of hub:{source}") for number, row in enumerate(rows_of, 1))


def _is_json_type(kind: "pyarrow.DataType") -> bool:
    """Whether JSON can say the values of a column: text, numbers, lists and objects of them."""
    import pyarrow
    from pyarrow import types

    if isinstance(kind, pyarrow.BaseExtensionType):
        return _is_json_type(kind.storage_type)
    if types.is_dictionary(kind):
        return _is_json_type(kind.value_type)
    if types.is_struct(kind):
        return all(_is_json_type(kind.field(place).type) for place in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_json_type(kind.value_type)
    tests = (types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating)
    return any(test(kind) for test in (*tests, types.is_null))
