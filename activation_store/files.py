"""Writing whole files or none, and reading JSON that may be hostile.

Everything is written under a temporary name beside its place, closed, fsynced, and renamed over it; the
folder is fsynced too. A reader sees the old file or the new one. What a killed process leaves behind ends
in `.tmp`.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from activation_store.errors import StoreError

#: What JSON can say.
JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

#: Largest JSON file that `read_json` accepts unless told otherwise, in bytes.
JSON_LIMIT = 64 << 20


#: Refusals of a disk: full, over the quota, over the largest size of a file, read-only, broken.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextmanager
def publish_file(path: str | os.PathLike, tag: str = "") -> Iterator[Path]:
    """Give a temporary path to write to; when the block ends well, it becomes `path`, atomically.

    On an exception nothing appears at `path`, what was there stays, and the temporary is removed. `tag` goes
    into the temporary's name, so that a later run can tell its own leavings (`sweep`).
    """
    path = Path(path)
    temporary = temporary_path(path, tag)
    try:
        with naming(path, temporary):
            yield temporary
        put_in_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def put_in_place(temporary: Path, path: Path) -> None:
    """Let a file that is written and closed become `path`, atomically and for good."""
    fsync(temporary)
    os.replace(temporary, path)
    fsync(path.parent)


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """What a disk refuses inside is said of `path`: Python names no file where a write or a flush fails, and
    nobody knows the name of a `temporary` in its place."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in DISK:
            error.filename = str(path)
        elif temporary is not None and isinstance(error.filename, str | os.PathLike):
            error.filename = os.fspath(error.filename).replace(str(temporary), str(path))
        raise


@contextmanager
def publish_folder(path: str | os.PathLike, replace: bool = False, same: bool = False) -> Iterator[Path]:
    """Like `publish_file` for a whole folder: give a new, empty temporary folder that becomes `path`.

    `same`: a `path` that holds just these files, byte for byte, is left as it is: stopped work that wrote it
    goes on. Any other existing `path` is an error (before anything is written, unless `same`), unless
    `replace`: then it is moved aside only when the new folder is complete, and removed after. (A kill between
    those two renames leaves both folders whole, under `.tmp` names, and none at `path`.)
    """
    path = Path(path)
    if not (replace or same) and (path.exists() or path.is_symlink()):
        raise StoreError(f"{path} exists already; choose another place or remove it first")
    temporary = temporary_path(path)
    temporary.mkdir(parents=True)
    try:
        with naming(path, temporary):
            yield temporary
        if same and (path.exists() or path.is_symlink()):
            if _files(path) != _files(temporary):
                raise StoreError(f"{path} exists already and differs from what would be written there; "
                                 "choose another place or remove it first")  # fmt: skip
            shutil.rmtree(temporary)
            return
        for folder, _, names in os.walk(temporary):
            for name in names:
                fsync(Path(folder, name))
            fsync(Path(folder))
        old = temporary_path(path) if path.exists() or path.is_symlink() else None
        if old is not None:
            os.rename(path, old)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync(path.parent)
    if old is not None:
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()


def write_bytes(path: str | os.PathLike, data: bytes | memoryview, tag: str = "") -> None:
    """Write `data` to `path`, whole or not at all."""
    with publish_file(path, tag) as temporary, open(temporary, "xb") as file:
        file.write(data)


def write_text(path: str | os.PathLike, text: str, tag: str = "") -> None:
    """Write `text` to `path` in UTF-8, whole or not at all."""
    write_bytes(path, text.encode(), tag)


def write_json(path: str | os.PathLike, value: JSON, indent: int | None = 1, tag: str = "") -> None:
    """Write `value` as JSON, whole or not at all. NaN and infinity raise StoreError: they are not JSON."""
    try:
        text = json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"{path} was not written: the value is not JSON: {error}") from None
    write_text(path, text + "\n", tag)


def read_json(path: str | os.PathLike, limit: int = JSON_LIMIT) -> Any:
    """Read a JSON file of at most `limit` bytes. Raises StoreError for anything that is not strict JSON.

    Refused: files over the limit, NaN and infinities, repeated keys, text that is not UTF-8, deep nesting.
    A file that is not there raises FileNotFoundError.
    """
    with open(path, "rb") as file:
        # As many bytes as there are: reading takes memory for what is asked for, not for what comes.
        data = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
    if len(data) > limit:
        raise StoreError(f"{path} is over {limit:,} bytes: refusing to read it as JSON")
    return parse_json(data, str(path))


def parse_json(data: bytes | str, name: str) -> Any:
    """Strict JSON from memory, as `read_json`; `name` is for the error."""
    try:
        return json.loads(data, parse_constant=_no_constant, object_pairs_hook=_unique, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise StoreError(f"{name} is not valid JSON: {reason}") from None


def digest(source: str | os.PathLike | bytes | memoryview) -> str:
    """SHA-256 in hexadecimal: of bytes, or of the file at a path."""
    if isinstance(source, bytes | memoryview):
        return hashlib.sha256(source).hexdigest()
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical(value: JSON) -> bytes:
    """The one JSON text of a value (sorted keys, no spaces), for digests and comparisons."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sweep(folder: str | os.PathLike, tag: str | None = None) -> list[str]:
    """Remove the temporaries of one `tag` that killed writers left in `folder`; returns their names.

    Only the process that alone may write with this tag (it holds a lock) may call it.
    """
    ending = ".tmp" if tag is None else f"~{tag}.tmp"
    stale = sorted(path for path in Path(folder).glob(".*.tmp") if path.name.endswith(ending))
    for path in stale:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    return [path.name for path in stale]


def temporary_path(path: Path, tag: str = "") -> Path:
    """A new name beside `path` for what will become it."""
    return path.absolute().with_name(f".{path.name[:150]}.{secrets.token_hex(6)}~{tag}.tmp")


def _files(folder: Path) -> dict[str, str]:
    """The digest of every file in a folder, by its path there; empty for what is no folder."""
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return {str(path.relative_to(folder)): digest(path) for path in files}


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; Windows opens no folder."""
    windows = os.name == "nt"
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def leave_page_cache(path: Path) -> None:
    """Give back the memory in which the system keeps a file that is on the disk.

    Writing terabytes would fill all memory with what is not read soon; and where a virtual machine asks its
    host for new memory, that takes longer than the disk. Advice, which systems may lack and disks refuse.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    with suppress(OSError), open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _unique(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} is repeated")
    return value
