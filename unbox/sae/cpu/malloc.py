"""What the C library does with memory that a step frees."""

import ctypes
from functools import cache

#: Numbers of <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
#: Blocks up to 32 MB (the most that glibc takes) come from the heap; up to 1 GB of it is kept for reuse.
BLOCK, TRIM = 32 << 20, 1 << 30


@cache
def reuse_freed_memory() -> None:
    """Keep freed blocks in the process instead of giving them back to the system.

    A step frees and asks for the same arrays of a batch each time. Given back, they return as fresh pages
    that the kernel must zero: a tenth of a step. Holds for the whole process; does nothing where the C
    library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS lack it; Windows has no such library
        return
    mallopt(M_MMAP_THRESHOLD, BLOCK)
    mallopt(M_TRIM_THRESHOLD, TRIM)
