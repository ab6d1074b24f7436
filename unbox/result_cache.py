"""Results named by what decides them, so that stopped work goes on: a JSON file each, or a folder with one.

A result's JSON is written whole, and last: where it is, the work is done and is never done again.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

from activation_store.files import JSON, canonical, digest, write_json
from unbox.errors import FieldError
from unbox.installed_versions import version
from unbox.text_files import read_json_object

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")


def key_of(inputs: JSON, length: int = 24) -> str:
    """The name of what `inputs` decide: the beginning of the SHA-256 of their canonical JSON."""
    return digest(canonical(inputs))[:length]


def cached(path: Path, compute: Callable[[], Result]) -> Result:
    """The JSON object at `path`, computed and written if it is not there yet. Raises UnboxError for a file
    that holds anything else."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, compute())  # type: ignore[arg-type]  # a TypedDict is JSON too
    found: Result = read_json_object(path)  # type: ignore[assignment]  # what `compute` made before
    return found


def damaged(path: Path, field: str, value: object) -> FieldError:
    """The error for a part of a result's file that is none of ours."""
    return FieldError(str(path), field, value, "is damaged: remove the file, and it is made again")


@dataclass(frozen=True)
class ResultCache:
    """A folder of JSON results; `context` is what all of them depend on (model, SAEs, settings)."""

    folder: Path
    context: JSON

    def has(self, key: JSON) -> bool:
        """Whether the result of `key` is on disk."""
        return (self.folder / f"{key_of([self.context, key])}.json").is_file()

    def get(
        self, key: JSON, compute: Callable[Inputs, Result], *args: Inputs.args, **options: Inputs.kwargs
    ) -> Result:
        """The result of `key`, an object or a list of objects, from disk where it was computed before:
        `compute(*args, **options)`. Raises UnboxError for a file that holds anything else."""
        path = self.folder / f"{key_of([self.context, key])}.json"

        def entry() -> dict[str, Any]:
            return {"key": key, "result": compute(*args, **options)}

        found = cached(path, entry)
        if canonical(found.get("key")) != canonical(key):
            raise damaged(path, "key", found.get("key"))
        result: Any = found.get("result")
        if not all(isinstance(row, dict) for row in (result if isinstance(result, list) else [result])):
            raise damaged(path, "result", result)
        made: Result = result
        return made


@dataclass(frozen=True)
class Stage(Generic[Result]):
    """A finished stage: its key, the folder of what it wrote, its JSON result, and the seconds it took."""

    key: str
    folder: Path
    result: Result
    seconds: float


class Stages:
    """Runs the stages of a long job under a folder, `NAME-KEY` each; the key is of unbox's version, the name,
    the settings, and the keys of the stages before it.

    A stage is done when `result.json` is in its folder. A stage that was stopped runs again in the same
    folder, where what it had begun (a store, SAEs) goes on from what is there.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = print):
        self.folder = folder
        self.say = say
        self.done: list[Stage] = []

    def run(
        self,
        name: str,
        about: str,
        settings: JSON,
        build: Callable[[Path], Result],
        after: Sequence[Stage] = (),
    ) -> Stage[Result]:
        """The finished stage, from disk where it was done before. `build` gets the folder, returns JSON."""
        key = self._key(name, settings, after)
        folder = self.folder / f"{name}-{key}"
        finished = folder / "result.json"
        self.say(f"[{len(self.done) + 1}] {about}" + (" (done before)" if finished.exists() else ""))

        def timed() -> dict[str, Any]:
            folder.mkdir(parents=True, exist_ok=True)
            start = time.perf_counter()
            result = build(folder)
            return {"result": result, "seconds": round(time.perf_counter() - start, 2)}

        found = cached(finished, timed)
        if found.keys() != {"result", "seconds"} or not isinstance(found["seconds"], int | float):
            raise damaged(finished, "seconds", found.get("seconds"))
        stage: Stage[Result] = Stage(key, folder, **found)
        self.done.append(stage)
        return stage

    def has(self, name: str, settings: JSON, after: Sequence[Stage] = ()) -> bool:
        """Whether the stage was done before."""
        return (self.folder / f"{name}-{self._key(name, settings, after)}" / "result.json").exists()

    def _key(self, name: str, settings: JSON, after: Sequence[Stage]) -> str:
        return key_of([version("unbox"), name, settings, [stage.key for stage in after]], 12)
