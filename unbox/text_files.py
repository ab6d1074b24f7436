"""Text files that people write: UTF-8, with or without a byte-order mark; TOML and JSON.

Every mistake in one is one UnboxError of a line that names the file, the line in it, and what to do.
"""

import math
import os
import tomllib
from collections.abc import Generator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TypeAlias

from activation_store import StoreError
from activation_store.files import JSON_LIMIT, parse_json
from unbox.errors import UnboxError
from unbox.json_types import JSON

#: Largest TOML file that is read, in bytes.
TOML_LIMIT = 4 << 20
#: Longest line of a file that is read line by line, in characters.
LINE_LIMIT = 4 << 20
#: First bytes of what is no UTF-8 text -> what it is.
_OTHER = {
    b"\xff\xfe": "in UTF-16",
    b"\xfe\xff": "in UTF-16",
    b"\x1f\x8b": "compressed (gzip)",
    b"PK\x03\x04": "compressed (zip), or a spreadsheet",
    b"PAR1": "a Parquet file",
}
_TOMLValue: TypeAlias = "object | list[_TOMLValue] | dict[str, _TOMLValue]"


def lines_of(path: Path, offset: int = 0, number: int = 0) -> Generator[str, None, None]:
    """The lines of a UTF-8 file with their ends (`\\n`, `\\r\\n` or `\\r`), one at a time; from a byte on,
    where a line begins, of which `number` lines come before.

    Raises UnboxError for what is no file (`check_file`), another encoding and a line over LINE_LIMIT.
    """
    check_file(path)
    try:
        with open(path, "rb") as raw:
            raw.seek(offset)
            file = TextIOWrapper(raw, encoding="utf-8" if offset else "utf-8-sig", newline="")
            while line := file.readline(LINE_LIMIT + 1):
                number += 1
                if len(line) > LINE_LIMIT:
                    raise UnboxError(
                        f"line {number} of {path} is over {LINE_LIMIT:,} characters: is it text?"
                    )
                yield line
    except UnicodeDecodeError:
        raise UnboxError(_not_utf8(path)) from None


def read_text(path: str | Path, limit: int) -> str:
    """The text of a UTF-8 file of at most `limit` bytes. Raises UnboxError for anything else."""
    path = Path(path)
    check_file(path)
    with open(path, "rb") as file:
        # As many bytes as there are: reading takes memory for what is asked for, not for what comes.
        data = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
    if len(data) > limit:
        raise UnboxError(f"{path} is over {limit:,} bytes, which is more than such a file has")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnboxError(_not_utf8(path)) from None


def read_toml_file(path: str | Path) -> dict[str, Any]:
    """The content of a TOML file of at most TOML_LIMIT bytes. Raises UnboxError for what is not one, and for
    NaN and infinities, which no option of ours takes."""
    text = read_text(path, TOML_LIMIT)
    try:
        content = tomllib.loads(text)
        name = _not_finite(content)
    except RecursionError:
        raise UnboxError(f"{path} is not valid TOML: nested too deeply") from None
    except ValueError as error:
        raise UnboxError(f"{path} is not valid TOML: {error}") from None
    if name is not None:
        raise UnboxError(f"{path}: {name} is not a finite number")
    return content


def read_json_file(path: str | Path, limit: int = JSON_LIMIT) -> JSON:
    """The content of a JSON file of at most `limit` bytes. Raises UnboxError for what is not strict JSON:
    repeated keys, NaN and infinities, deep nesting."""
    return parse_json_text(read_text(path, limit), str(path))


def read_json_object(path: str | Path, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """The object in a JSON file. Raises UnboxError as `read_json_file`, and for any other value."""
    value = read_json_file(path, limit)
    if not isinstance(value, dict):
        raise UnboxError(f"{path} is not a JSON object")
    return value


def parse_json_text(text: str, name: str) -> JSON:
    """Strict JSON from memory. Raises UnboxError, naming it `name`, for anything else."""
    try:
        return parse_json(text, name)
    except StoreError as error:
        place = "column" if "\n" not in text.strip() else "line 1 column"
        raise UnboxError(str(error).replace("line 1 column", place)) from None


def check_file(path: Path) -> None:
    """Raise UnboxError, saying which, for what is no file, and for a pipe or a device, which can be read
    only once."""
    if path.is_dir():
        raise UnboxError(f"{path} is a folder, not a file")
    if not path.exists():
        raise UnboxError(f"there is no file {path}")
    if not path.is_file():
        raise UnboxError(
            f"{path} is a pipe or a device, which can be read only once: write it to a file first"
        )


def _not_utf8(path: Path) -> str:
    """What is wrong with a file that cannot be decoded: its kind, or its first such line."""
    with open(path, "rb") as file:
        start = file.read(4)
        if kind := next((kind for first, kind in _OTHER.items() if start.startswith(first)), None):
            return f"{path} is {kind}: give it as plain text in UTF-8"
        file.seek(0)
        for number, line in enumerate(iter(lambda: file.readline(LINE_LIMIT), b""), 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                number += line.count(b"\r", 0, error.start)
                byte = f"0x{line[error.start]:02x}"
                return f"line {number} of {path} is not in UTF-8 (byte {byte}): save it as UTF-8"
    return f"{path} is not in UTF-8: save it as UTF-8"


def _not_finite(value: _TOMLValue, name: str = "") -> str | None:
    """The key of the first number that is not finite."""
    pairs: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        pairs = [(f"{name}.{key}" if name else key, each) for key, each in value.items()]
    elif isinstance(value, list):
        pairs = [(name, each) for each in value]
    elif isinstance(value, float) and not math.isfinite(value):
        return f"{name} = {value}"
    return next((found for key, each in pairs if (found := _not_finite(each, key))), None)
