"""Work on ranges of rows or latents by threads that each compute alone, on CPU.

Inside one operation torch's threads wait for each other, and the next one finds what it needs in another
core's cache. A thread that takes a few hundred rows through several operations by itself does neither.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from threading import Barrier

import torch

#: In a thread that leads workers: how many there are.
_led: ContextVar[int] = ContextVar("workers")


@contextmanager
def worker_threads() -> Iterator[None]:
    """Within, `parallel_for` has as many threads as torch had, and torch in this thread one.

    After each operation torch's own threads keep their cores busy for milliseconds, waiting for the next:
    cores that the workers need.
    """
    count = torch.get_num_threads()
    _workers(count)
    token = _led.set(count)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)
        _led.reset(token)


def parallel_for(work: Callable[[slice], None], count: int) -> None:
    """Do `work` on ranges that make up range(count), one for each of as many threads as torch uses.

    Within `work` torch has one thread, and gradients are off. An error of one thread is raised here.
    """
    threads = min(_led.get(torch.get_num_threads()), count)
    if threads <= 1:
        with torch.no_grad():
            work(slice(0, count))
        return
    bounds = [count * i // threads for i in range(threads + 1)]
    list(_workers(threads).map(torch.no_grad()(work), map(slice, bounds, bounds[1:])))


@cache
def _workers(count: int) -> ThreadPoolExecutor:
    """Threads in each of which torch has one thread; those begun elsewhere keep as many as there were."""
    before, ready = torch.get_num_threads(), Barrier(count)

    def alone(_: int) -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # this thread takes its number over now, and keeps it
        ready.wait()

    pool = ThreadPoolExecutor(count, "unbox-worker")
    list(pool.map(alone, range(count)))
    torch.set_num_threads(before)
    return pool
