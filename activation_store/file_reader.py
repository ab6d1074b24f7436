"""Bytes of a file: through the system's page cache, or past it where they are wanted only once.

What goes through the cache takes a new page of memory for each 4 kB: on a virtual machine that costs several
times as much as reading. What will not be read again goes straight from the disk (O_DIRECT) into a small
buffer, the same each time, and pushes nothing out of the cache.
"""

import mmap
import os
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Self

import numpy as np

#: ChunkIndex, lengths and memory of a direct read are multiples of the disk's blocks; these divide this.
_BLOCK = 4096
#: Bytes of a huge page.
_HUGE = 2 << 20

#: Memory of direct reads that none is in, for the next.
_spare: deque[np.ndarray] = deque(maxlen=8)


class FileReader:
    """A file open for reading."""

    def __init__(self, descriptor: int, direct: int | None = None) -> None:
        """`direct`: another descriptor of the file, that goes past the cache; None to go through it."""
        self._descriptor, self._direct = descriptor, direct
        if hasattr(os, "posix_fadvise"):  # what is read next is not what lies behind
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    @classmethod
    def read_once(cls, descriptor: int, opened: ExitStack) -> Self:
        """The file of a descriptor, not to be kept in the cache; where the system cannot, as any file.

        `opened` closes what is opened here.
        """
        try:
            direct = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_DIRECT)
        except (OSError, AttributeError):  # this file system cannot; this operating system cannot
            return cls(descriptor)
        opened.callback(os.close, direct)
        return cls(descriptor, direct)

    def read(self, buffers: Sequence[np.ndarray], offset: int) -> int:
        """Fill buffers (uint8) with the file's bytes from `offset` on; how many, fewer at the file's end."""
        wanted = sum(map(len, buffers))
        if self._direct is not None and _read_direct(self._direct, buffers, offset):
            return wanted
        return _read(self._descriptor, buffers, offset)


def _read(descriptor: int, buffers: Sequence[np.ndarray], offset: int) -> int:
    views = [buffer.data for buffer in buffers]
    done = 0
    while views and (count := os.preadv(descriptor, views, offset + done)):
        done += count
        while views and count >= len(views[0]):
            count -= len(views.pop(0))
        if views:
            views[0] = views[0][count:]
    return done


def _read_direct(descriptor: int, buffers: Sequence[np.ndarray], offset: int) -> bool:
    """Whether all was read past the cache. If not (the file ends, a disk has other blocks), read as usual."""
    begin = offset // _BLOCK * _BLOCK
    at, end = offset - begin, offset - begin + sum(map(len, buffers))
    whole = -(-end // _BLOCK) * _BLOCK
    memory = _take(whole)
    try:
        if os.preadv(descriptor, [memory[:whole].data], begin) < end:
            return False
        for buffer in buffers:
            buffer[:] = memory[at : at + len(buffer)]
            at += len(buffer)
    except OSError:
        return False
    finally:
        _spare.append(memory)
    return True


def _take(size: int) -> np.ndarray:
    """At least `size` bytes for a direct read: those of one before, or new ones."""
    try:
        memory = _spare.pop()
    except IndexError:
        return huge_pages(size)
    return memory if len(memory) >= size else huge_pages(size)


def huge_pages(size: int) -> np.ndarray:
    """At least `size` new bytes, uint8, in huge pages if the system has them.

    A disk is handed a list of the pages to fill: one huge page in place of 512 makes it twice as fast.
    """
    memory = mmap.mmap(-1, -(-size // _HUGE) * _HUGE + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError, AttributeError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    begin = -whole.ctypes.data % _HUGE
    return whole[begin : begin + len(whole) - _HUGE]
