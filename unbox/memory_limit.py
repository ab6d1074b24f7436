"""How much memory one request may take, asked before it is taken: masks, pictures, latents, controls, grids.

The limit is half of the machine's memory, or of the container's. `unbox --memory-limit 64GB COMMAND ...` or
the variable UNBOX_MEMORY_LIMIT sets another.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil

from unbox.errors import FieldError, UnboxError

VARIABLE, OPTION = "UNBOX_MEMORY_LIMIT", "--memory-limit"

_POWERS = ("", "K", "M", "G", "T")
#: Where Linux says how much a container may take: cgroup 2, cgroup 1.
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def require(size: int, what: str, door: str = "") -> None:
    """Raises UnboxError, naming `what`, where `size` bytes are more than a request may take."""
    if size > (limit := memory_limit()):
        text = f"{what} would take {size_text(size)} of memory; the limit is {size_text(limit)}"
        raise UnboxError(f"{door and door + ': '}{text} ({OPTION} or {VARIABLE} sets another)")


@contextmanager
def limited(size: str, door: str = "") -> Iterator[None]:
    """Inside, one request may take `size`, like 64GB, in every thread. Raises FieldError if it is no size."""
    bytes_of(size, door or VARIABLE)
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = size
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def memory_limit() -> int:
    """Bytes that one request may take."""
    asked = os.environ.get(VARIABLE)
    return _machine() // 2 if asked is None else bytes_of(asked, VARIABLE)


def bytes_of(text: str, door: str) -> int:
    """Bytes of a size like 800MB, 64GB or 1e9. Raises FieldError for anything else."""
    found = re.fullmatch(
        r"([0-9]{1,18}(?:\.[0-9]{1,9})?)(?:e([0-9]{1,2}))? ?([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE
    )
    size = 0
    if found:
        number, power, letter, binary = found.groups()
        unit = (1024 if binary else 1000) ** _POWERS.index(letter.upper())
        size = int(float(number) * 10 ** int(power or 0) * unit)
    if not 0 < size < 2**60:
        raise FieldError("", door, text, "should be a size like 800MB or 64GB")
    return size


@cache
def _machine() -> int:
    """Bytes of memory of the machine, or of the container that this runs in."""
    limits = [psutil.virtual_memory().total]
    for path in map(Path, _CGROUPS):
        text = path.read_text().strip() if path.is_file() else ""
        limits += [int(text)] if text.isdigit() else []
    return min(limits)


def size_text(size: int) -> str:
    """A size for people, with three figures."""
    power = max(0, min(4, (len(str(size)) - 1) // 3))
    return f"{size / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
