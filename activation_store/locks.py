"""Locks between processes, by `flock`: the kernel lets go when a process dies, so no lock is ever stale.

The lock file stays where it is, empty of meaning but for who holds it; only its holder may remove it. On a
disk shared by machines the file system must support `flock` (NFS 4, Lustre with `-o flock`); one that does
not is refused rather than trusted, and so is Windows, which has none.
"""

import errno
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from activation_store.errors import StoreError
from activation_store.files import JSON

try:
    import fcntl
except ImportError:  # Windows
    LOCKS = False
else:
    LOCKS = True


@contextmanager
def lock(
    path: Path, *, shared: bool = False, wait: bool = False, note: Mapping[str, JSON] | None = None
) -> Iterator[None]:
    """Hold the lock at `path`; `note` (and this process) is written into it for whoever is refused.

    Raises StoreError when another process holds it, unless `wait`, and where there are no locks.
    """
    require_locks(path.parent)
    descriptor = _open(path)
    try:
        while True:
            if not flock(descriptor, shared, wait):
                raise StoreError(
                    f"{path.parent} is in use by {describe(path)}; wait for it to end, or stop it"
                )
            if _is_at(path, descriptor):
                break
            os.close(descriptor)  # its holder removed it before it let go: what is there now is another
            descriptor = _open(path)
        if not shared:
            text = json.dumps({**(note or {}), "host": socket.gethostname(), "pid": os.getpid()})
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text.encode(), 0)
        yield
    finally:
        os.close(descriptor)


def require_locks(folder: str | os.PathLike) -> None:
    """Raise StoreError where this system has no locks: stores and folders of runs are not for it."""
    if not LOCKS:
        raise StoreError(
            f"{folder} cannot be used: stores and folders of runs need locks (flock), which this system does "
            "not have; Windows has them under WSL 2"
        )


def holder(path: Path) -> dict[str, Any] | None:
    """What the holder of the lock at `path` noted, or None when nobody holds it."""
    require_locks(path.parent)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        return None if flock(descriptor, shared=True, wait=False) else _read(path)
    finally:
        os.close(descriptor)


def describe(path: Path) -> str:
    """Who holds the lock at `path`, in words."""
    note = _read(path)
    return f"process {note['pid']} on {note['host']}" if {"pid", "host"} <= set(note) else "another process"


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        note = json.loads(path.read_bytes()[:4096])
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def flock(descriptor: int, shared: bool, wait: bool) -> bool:
    """Lock an open file until it is closed; False where another has it and this is not to `wait`."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise StoreError("this file system has no locks (flock); put the store on another") from error
        raise
    return True
