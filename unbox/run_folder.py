"""A folder that a command writes: checked before work begins, one writer at a time, results of one run.

    with run_folder(out, "demo") as folder:        # before a model is loaded
        folder.claim({"model": ..., "seed": 3})    # refuses, by name, a folder of another run

`new_folder` is for results that are published whole, in a folder that is not there yet.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from activation_store.errors import StoreError
from activation_store.files import canonical, read_json, write_json
from activation_store.locks import lock
from unbox.errors import UnboxError
from unbox.json_types import JSON

RECORD, LOCK = "identity.json", "run.lock"
#: Longest value that a refusal shows, in characters.
SHOWN = 60

#: Folders that this thread (or task) holds: a command locks one, and the function that it calls again.
_held: ContextVar[Mapping[Path, "RunFolder"]] = ContextVar("held")


@dataclass(frozen=True)
class RunFolder:
    """A folder that is locked for a command."""

    path: Path
    command: str

    def recorded(self) -> dict[str, Any]:
        """What the run in the folder is of, by part; empty where nothing was recorded."""
        return dict(_record(self.path).get("parts", {}))

    def claim(
        self,
        fixed: Mapping[str, JSON],
        keyed: Mapping[str, JSON] | None = None,
        before: Mapping[str, JSON] | None = None,
    ) -> None:
        """Record what this run is of. Raises UnboxError where the folder holds a run whose `fixed` differ.
        Parts that were recorded and are not named now stay.

        Values are equal as JSON; of one made by `named` the identity counts. `keyed`: parts that may change,
        for results are named by them. `before`: what a folder without a record is known to be of.
        """
        old = self.recorded() or dict(before or {})
        refuse_others(self.path, self.command, old, fixed)
        record: JSON = {"command": self.command, "parts": {**self.recorded(), **fixed, **(keyed or {})}}
        if _record(self.path) != json.loads(canonical(record)):
            write_json(self.path / RECORD, record)


@contextmanager
def run_folder(path: str | os.PathLike, command: str) -> Iterator[RunFolder]:
    """Hold the folder at `path`, made if need be, for `unbox COMMAND`; removed again if nothing is written.

    Raises UnboxError, before anything else is done, where it cannot be written, another process writes it, or
    it holds another command's results. The same thread may hold it several times over.
    """
    folder = Path(path)
    key = folder.absolute()
    if (outer := _held.get({}).get(key)) is not None:
        yield outer
        return
    check_writable(folder)
    with _made(folder), _locked(folder / LOCK, command):
        there = _record(folder).get("command", command)
        if there != command:
            raise UnboxError(
                f"{folder} holds results of `unbox {there}`; give `unbox {command}` a folder of its own"
            )
        held = RunFolder(folder, command)
        token = _held.set({**_held.get({}), key: held})
        try:
            yield held
        finally:
            _held.reset(token)


@contextmanager
def new_folder(path: str | os.PathLike, command: str) -> Iterator[Path]:
    """Hold a place where a folder will be published whole. Raises UnboxError, before anything else is done,
    where something is there, it cannot be written, or another process is about to."""
    folder = Path(path).absolute()
    check_writable(folder)
    if not folder.name:
        raise UnboxError(f"{folder} exists already; choose another place")
    with _made(folder.parent), _locked(folder.with_name(f".{folder.name}.lock"), command):
        if folder.exists() or folder.is_symlink():
            raise UnboxError(f"{folder} exists already; choose another place or remove it first")
        yield folder


def named(name: str, identity: str) -> dict[str, JSON]:
    """A part that counts by its identity and is shown under a name as well."""
    return {"name": name, "identity": identity}


def check_writable(path: str | os.PathLike) -> None:
    """Raise UnboxError unless a folder is, or can be made, at `path`, and can be written to."""
    place = Path(path).absolute()
    while not place.exists() and not place.is_symlink():
        place = place.parent
    if not place.is_dir():
        raise UnboxError(f"cannot write to {path}: {place} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UnboxError(f"cannot write to {path}: {place} is read-only; choose a folder that can be written")


def check_writable_file(path: str | os.PathLike) -> None:
    """Raise UnboxError unless a file can be written at `path`."""
    if Path(path).is_dir():
        raise UnboxError(f"{path} is a folder; give the name of a file")
    check_writable(Path(path).parent)


def refuse_others(path: Path, command: str, old: Mapping[str, JSON], new: Mapping[str, JSON]) -> None:
    """Raise UnboxError, naming them, where parts of two runs that both have are not the same."""
    differing = [name for name in new if name in old and _counts(old[name]) != _counts(new[name])]
    if differing:
        told = "; ".join(_told(name, old[name], new[name]) for name in differing)
        raise UnboxError(
            f"{path} holds another run of `unbox {command}`: {told}. Give what it was begun with, or another "
            "folder"
        )


def _told(name: str, old: JSON, new: JSON) -> str:
    """How a part differs; of several values under names, those that do."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and not _is_named(new):
        keys = [key for key in {**old, **new} if _counts(old.get(key)) != _counts(new.get(key))]
        return "; ".join(_told(f"{name} {key}", old.get(key), new.get(key)) for key in keys)
    return f"{name} was {_short(old)}, is {_short(new)}"


def _is_named(value: JSON) -> bool:
    return isinstance(value, Mapping) and set(value) == {"name", "identity"}


def _counts(value: JSON) -> bytes:
    """What of a part is compared, as text."""
    if isinstance(value, Mapping) and _is_named(value):
        value = value["identity"]
    return canonical(json.loads(json.dumps(value)))


def _short(value: JSON) -> str:
    if isinstance(value, Mapping) and _is_named(value):
        return f"{value['name']} ({str(value['identity'])[:8]})"
    text = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _record(folder: Path) -> dict[str, Any]:
    if not (folder / RECORD).is_file():
        return {}
    try:
        record = read_json(folder / RECORD)
    except StoreError as error:
        raise UnboxError(f"{error}; remove it if the folder's results are of what you give now") from None
    if not isinstance(record, dict) or not isinstance(record.get("parts", {}), dict):
        raise UnboxError(f"{folder / RECORD} is not a record of a run; choose another folder")
    return record


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder and those above it, made where they are not there, and removed after if still empty."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for place in missing:
            with suppress(OSError):  # it holds something
                place.rmdir()


@contextmanager
def _locked(file: Path, command: str) -> Iterator[None]:
    """Hold a lock file; removed after where it lies beside the folder, or alone in it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(file, note={"command": command}))
        except StoreError as error:
            raise UnboxError(str(error)) from None
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
