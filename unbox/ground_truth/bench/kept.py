"""Results kept by what decides them, so that a stopped benchmark goes on."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from activation_store.files import canonical, read_json, write_json


@dataclass(frozen=True)
class Kept:
    """A folder of JSON results; `context` is what all of them depend on (model, SAEs, settings)."""

    folder: Path
    context: Any

    def get(self, key: Any, compute: Callable[..., Any], *arguments: Any) -> Any:
        """The result of `key`: `compute(*arguments)`, written if it is not there yet."""
        name = hashlib.sha256(canonical([self.context, key])).hexdigest()[:24]
        path = self.folder / f"{name}.json"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, {"key": key, "result": compute(*arguments)})
        return read_json(path)["result"]
