"""The memory that this process took."""

import sys

import psutil


def process_peak() -> int:
    """Bytes of memory that this process held at most so far."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
