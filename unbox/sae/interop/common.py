"""What the layouts share."""

from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from unbox.errors import FieldError, UnboxError
from unbox.sae.model import SAE
from unbox.site import short_name
from unbox.text_files import read_json_object
from unbox.validation import JSONObject, checked, parsed

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


def read_config(
    kind: type[Config], path: Path, harmless: Collection[str] = (), under: str | None = None
) -> Config:
    """The fields of a validated class from a configuration of another package, or of its part `under`.

    `harmless` names what is known to change no code. Raises UnboxError for no JSON object, missing fields,
    values that are not read exactly, and, by its name, every other key: it may change codes.
    """
    config = read_json_object(path, CONFIG_LIMIT)
    door = str(path)
    if under is not None:
        config, door = checked(JSONObject, under, config.get(under), door), f"{path}: {under}"
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # it is a dataclass
    for key, value in config.items():
        if key not in names and key not in harmless:
            raise FieldError(door, key, value, "is not known here and may change codes: it is not read")
    return parsed(kind, {name: config[name] for name in names if name in config}, door)


def block_of(text: str) -> str:
    """Short name of the block that a path such as `unet.mid_block.attentions.0` names, else ""."""
    try:
        return short_name(text)
    except UnboxError:
        return ""
