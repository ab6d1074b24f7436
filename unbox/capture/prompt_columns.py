"""Which columns of a table of prompts are read, by one rule for Parquet files and data sets of the Hub."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow

#: A row of a table, and where it is, for errors.
Located = tuple[Mapping[str, Any], str]


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
