"""What the layouts share."""

from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from unbox.errors import UnboxError
from unbox.sae.model import SAE
from unbox.site import short_name
from unbox.text_files import read_json_object
from unbox.validation import parsed

Config = TypeVar("Config")

#: Largest configuration file of another package, in bytes.
CONFIG_LIMIT = 1 << 20


class Format(Protocol):
    """A layout, as a module: is this folder one, read it, write an SAE into an empty folder."""

    def recognises(self, folder: Path) -> bool: ...
    def read(self, folder: Path) -> SAE: ...
    def write(self, sae: SAE, folder: Path) -> None: ...


def peek(folder: Path, file: str) -> dict[str, Any]:
    """The JSON object in a file of a folder, or an empty one where there is none: for recognising layouts."""
    try:
        return read_json_object(folder / file, CONFIG_LIMIT) if (folder / file).is_file() else {}
    except UnboxError:
        return {}


def read_config(kind: type[Config], path: Path) -> Config:
    """The fields of a validated class that a configuration of another package has; the others are left.

    Raises UnboxError for no JSON object, missing fields, and values that are not read exactly.
    """
    config = read_json_object(path, CONFIG_LIMIT)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # it is a dataclass
    return parsed(kind, {name: config[name] for name in names if name in config}, str(path))


def block_of(text: str) -> str:
    """Short name of the block that a path such as `unet.mid_block.attentions.0` names, else ""."""
    try:
        return short_name(text)
    except UnboxError:
        return ""
