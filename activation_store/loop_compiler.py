"""Compiling loops with numba, kept on disk for the next process: where that cannot be, it is no error."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache


class _Cache(FunctionCache):
    """numba's cache of compiled code, without errors of the disk: compiling again takes seconds."""

    def load_overload(self, *arguments: Any) -> Any:
        with suppress(OSError):
            return super().load_overload(*arguments)

    def save_overload(self, *arguments: Any) -> None:
        with suppress(OSError):
            super().save_overload(*arguments)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """numba's `njit`, without Python's lock, with a cache. Where no folder can be written (packages, home and
    NUMBA_CACHE_DIR read-only, as in containers) each process compiles for itself."""

    def compile(function: Callable[..., Any]) -> Any:
        loop = njit(nogil=True, **options)(function)
        with suppress(RuntimeError):  # "no locator available": nowhere to keep it
            loop._cache = _Cache(function)
        return loop

    return compile
