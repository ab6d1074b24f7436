"""What the layouts share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.sae.model import SAE
from unbox.sae.sae_folder import read_object
from unbox.site import short_name

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
        return read_object(folder / file, CONFIG_LIMIT) if (folder / file).is_file() else {}
    except UnboxError:
        return {}


def whole_number(config: Mapping[str, JSON], key: str, where: Path) -> int:
    """A positive whole number of a configuration."""
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= 1 << 30:
        raise UnboxError(f"{where}: {key} = {value!r} is not a positive whole number")
    return value


def refuse_unless(config: Mapping[str, JSON], supported: Mapping[str, tuple[JSON, ...]], where: Path) -> None:
    """Raises UnboxError where a key is there with a value that this reader does not understand exactly."""
    for key, values in supported.items():
        if key in config and config[key] not in values:
            raise UnboxError(
                f"{where}: {key} = {config[key]!r} is not supported; only {', '.join(map(repr, values))}"
            )


def block_of(text: str) -> str:
    """Short name of the block that a path such as `unet.mid_block.attentions.0` names, else ""."""
    try:
        return short_name(text)
    except UnboxError:
        return ""
