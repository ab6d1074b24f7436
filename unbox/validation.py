"""One rule a field: dataclasses that are checked whenever one is made, by pydantic, behind every door.

A door is a way in: the command line, TOML, JSON, Python, a PNG, a link. All of them end in a class made with
`validated`, whose fields have the types of this module; what such an object holds is of its type, finite and
in its bounds. A mistake is a `FieldError`: one line with the door, the field, the value and the rule.

```python
@validated
class Options:
    steps: Steps | None = None
    scales: Several[Real] = (1.0,)

Options(steps=0)                       # FieldError: Options: steps = 0: should be at least 1
parsed(Options, {"step": 4}, "a.toml") # FieldError: a.toml: step = 4: is unknown, is it steps? there are ...
```
"""

import json
import math
import numbers
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_origin, overload
from urllib.parse import urlsplit

import numpy as np
from annotated_types import Ge, Gt, Le, Lt, MinLen, MultipleOf
from pydantic import BeforeValidator, ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from activation_store.remote_store import is_url
from unbox.errors import FieldError, UnboxError
from unbox.former_names import renamed

Value = TypeVar("Value")
Class = TypeVar("Class")

CONFIG = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

#: Values of a list at most: more are a mistake, like a range of all numbers.
LONGEST_LIST = 2**22

#: Every class that `validated` made, by its full name: the tests throw values at each.
VALIDATED: dict[str, type] = {}


def _whole(value: object) -> object:
    """Whole numbers of any library, and floats that are whole; truth values and texts are no numbers."""
    value = _scalar(value)
    if isinstance(value, bool | np.bool_):
        raise ValueError("should be a whole number, not a truth value")
    if isinstance(value, float | np.floating):
        if not float(value).is_integer():
            raise ValueError("should be a whole number")
        return int(value)
    try:
        return operator.index(value)  # type: ignore[arg-type]  # refused below
    except TypeError:
        raise ValueError("should be a whole number") from None


def _real(value: object) -> object:
    """Finite numbers of any library as floats; truth values and texts are no numbers."""
    value = _scalar(value)
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise ValueError("should be a number")
    try:
        found = float(value)
    except OverflowError:
        raise ValueError("should be a finite number") from None
    if not math.isfinite(found):
        raise ValueError("should be a finite number")
    return found


def _scalar(value: object) -> object:
    """A number instead of an array or tensor that holds one."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _several(value: object) -> object:
    """A tuple of what is a list by any library; of one value, that value alone."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return (value,)
    values = tuple(islice(value, LONGEST_LIST + 1))
    if len(values) > LONGEST_LIST:
        raise ValueError(f"should hold at most {LONGEST_LIST:,} values")
    return values


def _pair(value: object) -> object:
    """A tuple of two values from what is a list by any library."""
    values = _several(value)
    if isinstance(values, tuple) and len(values) == 2:
        return values
    raise ValueError("should be two values")


def _path(value: object) -> object:
    """A path from a text or any path-like object; nothing that no file can be called."""
    if not isinstance(value, str | os.PathLike) or "\0" in (text := os.fspath(value)) or not text:
        raise ValueError("should be the path of a file or folder")
    return Path(text)


def _store_place(value: object) -> object:
    """A folder, or a URL, which stays as it is."""
    if isinstance(value, str) and is_url(value):
        if re.fullmatch(r"[!-~]+", value):
            return value
        raise ValueError("should be a URL without spaces")
    return os.fspath(Path(str(_path(value))))


def _text(value: object) -> object:
    """A text without control characters but line breaks and tabs; joiners (emoji, Persian) are welcome."""
    if not isinstance(value, str):
        raise ValueError("should be a text")
    if found := _CONTROL.search(value):
        place = f"U+{ord(found[0]):04X} at place {found.start()}"
        raise ValueError(f"should not hold the control character {place}")
    return value


#: Control characters other than tabs and line ends, halves of surrogate pairs, and byte-order marks (which
#: are left inside where files were joined). Joiners, marks of direction and emoji are text like any other.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff]")


def _exact(value: object) -> object:
    """No floats: large ones, in JSON say, have lost digits, and with a digit lost a seed is another."""
    value = _scalar(value)
    if isinstance(value, float | np.floating):
        raise ValueError("should be a whole number, without a point")
    return value


def _name(value: object) -> object:
    """A name as the store takes them for blocks: letters, digits and _.- of at most 100 characters."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("should be a name of letters, digits, '_', '.' and '-'")
    return value


def _hub_name(value: object) -> object:
    """What the Hub takes for the name of a repository."""
    if not isinstance(value, str) or not _HUB_NAME.fullmatch(value) or "--" in value or ".." in value:
        raise ValueError("should be owner/name of a repository on the Hub")
    return value


def _object(value: object) -> object:
    """A JSON object, as a dict."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError("should be an object with keys")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ValueError("should be JSON, with finite numbers") from None
    return dict(value)


def _http_address(value: object) -> object:
    """An address that can be asked: http or https, a host, a port that there is, no spaces or other signs."""
    try:
        if isinstance(value, str) and re.fullmatch(r"https?://[!-~]+", value):
            parts = urlsplit(value)
            if parts.hostname and parts.port != 0:
                return value
    except ValueError:  # a port over 65535, brackets that do not close
        pass
    raise ValueError("should be an address like http://localhost:8000/v1")


_HUB_NAME = re.compile(r"(?:\w[\w.\-]{0,95}/)?\w(?:[\w.\-]{0,94}\w)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}")

#: A whole number, a finite number, a text, a path; bounds are added by `Annotated[Whole, Ge(1)]`.
Whole = Annotated[int, BeforeValidator(_whole)]
Real = Annotated[float, BeforeValidator(_real)]
Text = Annotated[str, BeforeValidator(_text)]
FilePath = Annotated[Path, BeforeValidator(_path)]
#: Where a store is read from: a folder, or a URL like s3://bucket/acts.
StorePlace = Annotated[str, BeforeValidator(_store_place)]


class Instance:
    """`Annotated[Edits, Instance()]`: an object that is checked where it is made, and taken as it is."""

    def __get_pydantic_core_schema__(self, source: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(source)


#: A JSON object whose content is checked where it is used, or is of no account.
JSONObject = Annotated[dict[str, Any], BeforeValidator(_object)]
#: `Several[Whole]`: a tuple, from a list, a range, an array, or one alone.
Several = Annotated[tuple[Value, ...], BeforeValidator(_several)]
#: `Pair[Whole]`: two of them, from a list too; `Annotated[tuple[...], AS_TUPLE]` for any other number.
AS_TUPLE = BeforeValidator(_several)
Pair = Annotated[tuple[Value, Value], BeforeValidator(_pair)]

#: What names a block, a file or a folder: it holds no separators and begins with a letter or digit.
Name = Annotated[str, BeforeValidator(_name)]
#: `Some[Whole]`: at least one.
Some = Annotated[tuple[Value, ...], BeforeValidator(_several), MinLen(1)]

#: Of at least 0, of at least 1; both with a bound that catches numbers typed wrongly before memory does.
Index = Annotated[Whole, Ge(0), Lt(2**40)]
Count = Annotated[Whole, Ge(1), Lt(2**40)]
#: Rows, tokens: amounts that only time bounds.
Amount = Annotated[Whole, Ge(0), Lt(2**50)]
#: A share or probability, ends included; above 0.
Share = Annotated[Real, Ge(0), Le(1)]
Positive = Annotated[Real, Gt(0), Lt(1e12)]
NotNegative = Annotated[Real, Ge(0), Lt(1e12)]

#: torch takes 64 bits.
Seed = Annotated[Whole, BeforeValidator(_exact), Ge(0), Lt(2**64)]
#: A scheduler is trained on 1,000 timesteps; and the index of one.
Steps = Annotated[Whole, Ge(1), Le(1000)]
StepIndex = Annotated[Whole, Ge(0), Lt(1000)]
Guidance = Annotated[Real, Ge(0), Le(1000)]
#: Pixels of an image's side.
Side = Annotated[Whole, Ge(8), Le(16384), MultipleOf(8)]
BatchSize = Annotated[Whole, Ge(1), Le(65536)]
Port = Annotated[Whole, Ge(1), Lt(65536)]
HttpAddress = Annotated[str, BeforeValidator(_http_address)]
#: Processes, GPUs, threads that work together; and the number of one.
Processes = Annotated[Whole, Ge(1), Le(65536)]
Rank = Annotated[Whole, Ge(0), Lt(65536)]
#: A repository of the Hub, `owner/name`.
HubName = Annotated[str, BeforeValidator(_hub_name)]


@overload
def validated(kind: type[Class], /) -> type[Class]: ...
@overload
def validated(*, kw_only: bool = False) -> Callable[[type[Class]], type[Class]]: ...
@dataclass_transform(frozen_default=True)
def validated(
    kind: type[Class] | None = None, /, *, kw_only: bool = False
) -> type[Class] | Callable[[type[Class]], type[Class]]:
    """Class decorator: a frozen dataclass whose fields are checked when one is made (`replace` too).

    Types are strict (no text for a number, no 1 for True); the ones of this module take what means the same.
    Raises FieldError, whose door is the class's name. Rules between fields go into `__post_init__`, which
    runs on checked values and raises FieldError or UnboxError.
    """
    return partial(_validated, kw_only=kw_only) if kind is None else _validated(kind, kw_only=kw_only)


def _validated(kind: type[Class], *, kw_only: bool) -> type[Class]:
    made = dataclass(frozen=True, kw_only=kw_only, config=CONFIG)(kind)
    initialize = made.__init__

    def __init__(self: Class, *values: object, **named: object) -> None:
        try:
            initialize(self, *values, **named)
        except ValidationError as error:
            raise _mistake(error, kind.__name__, names=list(made.__dataclass_fields__)) from None

    setattr(made, "__init__", __init__)  # noqa: B010  # a type checker takes the dataclass's own
    VALIDATED[f"{kind.__module__}.{kind.__qualname__}"] = made
    return made  # type: ignore[return-value]  # pydantic says only that it is one of its dataclasses


def parsed(kind: type[Class], given: object, door: str, former: Mapping[str, str] | None = None) -> Class:
    """An object of a validated class from a mapping that came through `door`: a file, a link.

    `former`: keys that had other names -> their names. Raises FieldError for keys that there are not, keys
    that are missing, and values that break a rule.
    """
    if not isinstance(given, Mapping):
        raise FieldError(door, "", given, "should be an object with keys")
    names = [field.name for field in fields(kind) if field.init]  # type: ignore[arg-type]
    with behind(door):
        values = renamed(given, former or {})
        for name, value in values.items():
            if name not in names:
                raise FieldError("", str(name), value, unknown(str(name), names))
        return kind(**values)


def unknown(name: str, names: Sequence[str]) -> str:
    """The rule that a name breaks that is none of `names`."""
    near = "".join(f", is it {each}?" for each in get_close_matches(name, names, n=1))
    return f"is unknown{near or ','} there are {', '.join(names)}"


def checked(rule: type[Value], name: str, value: object, door: str = "") -> Value:
    """`value` by a rule of this module, where there is no class for it: an argument of a function."""
    try:
        found: Value = _adapter(rule).validate_python(value)  # type: ignore[arg-type]  # rules can be hashed
        return found
    except ValidationError as error:
        raise _mistake(error, door, (name,)) from None


@cache
def _adapter(rule: type[Value]) -> TypeAdapter[Value]:
    """What checks values by a rule; to make one takes longer than to use it."""
    of = get_args(rule)[0] if get_origin(rule) is Annotated else rule
    return TypeAdapter(rule, config=None if is_dataclass(of) else CONFIG)  # a class has a configuration


@contextmanager
def behind(door: str) -> Iterator[None]:
    """Errors of fields inside are of this door; other mistakes begin with it."""
    try:
        yield
    except FieldError as error:
        raise error.at(door) from None
    except UnboxError as error:
        raise UnboxError(f"{door}: {error}" if door else str(error)) from error


@contextmanager
def inside(place: str) -> Iterator[None]:
    """Errors of fields inside are of fields of `place`, `edits[3]` say; other mistakes begin with it."""
    try:
        yield
    except FieldError as error:
        raise error.inside(place) from None
    except UnboxError as error:
        raise UnboxError(f"{place}: {error}") from error


def _mistake(
    error: ValidationError, door: str, before: tuple[str, ...] = (), names: Sequence[str] = ()
) -> UnboxError:
    """The first mistake of several, as ours. `before`: where the value stands that was checked; `names`: of
    fields that were given by their order."""
    found = error.errors(include_url=False)[0]
    raised = found.get("ctx", {}).get("error")
    place: list[int | str] = [*before, *found["loc"]]
    if place and isinstance(place[0], int) and place[0] < len(names):
        place[0] = names[place[0]]
    if isinstance(raised, FieldError):
        return raised if raised.door else raised.inside(_place(place)).at(door)
    if isinstance(raised, UnboxError) and not place:
        return raised
    return FieldError(door, _place(place), found["input"], _rule(found))


def _place(loc: Sequence[int | str]) -> str:
    """`saes[0].k` of ("saes", 0, "k"); the branches of a union, which pydantic names too, are left out."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and part not in _TYPES:
            text += f".{part}" if text else part
        elif text and re.fullmatch(r"\w+(\.\w+)+", part):  # a key of a mapping, `mid.0` say
            text += f"[{part!r}]"
    return text


#: Names of types, and tags of a union's branches, which pydantic puts into the place of a mistake.
_TYPES = {"int", "float", "str", "bool", "none", "tuple", "list", "dict", "is", "one", "several"}

#: What pydantic calls a mistake -> the rule, in a few words.
_RULES = {
    "greater_than_equal": "should be at least {ge:,}",
    "greater_than": "should be more than {gt:,}",
    "less_than_equal": "should be at most {le:,}",
    "less_than": "should be less than {lt:,}",
    "multiple_of": "should be a multiple of {multiple_of}",
    "literal_error": "should be one of {expected}",
    "missing": "is missing",
    "missing_argument": "is missing",
    "unexpected_keyword_argument": "is unknown",
    "bool_type": "should be true or false",
    "string_type": "should be a text",
    "finite_number": "should be a finite number",
    "too_long": "should have at most {max_length:,} items",
    "too_short": "should have at least {min_length:,} items",
    "string_too_long": "should have at most {max_length:,} characters",
    "string_too_short": "should have at least {min_length:,} characters",
}


def _rule(found: ErrorDetails) -> str:
    context = found.get("ctx", {})
    if (template := _RULES.get(found["type"])) is not None:
        return template.format(**context)
    if (error := context.get("error")) is not None:
        return str(error)
    return found["msg"].replace("Input should", "should")
