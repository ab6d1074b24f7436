"""Several processes at one grid: each takes the next cell that has no result and that no other one has.

A process holds OUT/locks/NAME-SEED.lock while it trains and measures a cell; the kernel lets go when it ends,
however it does. Caches of images are made once, before the processes start, and each has links to them: a
cache is one training's at a time. At the end of its time a grid is stopped as by Ctrl-C: what is half trained
goes on by the same line.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from activation_store.errors import StoreError
from activation_store.locks import lock

#: Seconds in which a process that was asked to stop writes its checkpoint.
LAST = 20.0


@contextmanager
def claimed(out: Path, name: str) -> Iterator[bool]:
    """Whether the lock of a cell is this process's, until the end of the block."""
    (out / "locks").mkdir(parents=True, exist_ok=True)
    try:
        holding = lock(out / "locks" / f"{name}.lock")
        holding.__enter__()
    except StoreError:
        yield False
        return
    try:
        yield True
    finally:
        holding.__exit__(None, None, None)


@contextmanager
def waited(out: Path, name: str) -> Iterator[None]:
    """The lock of what several cells need, once it is free."""
    (out / "locks").mkdir(parents=True, exist_ok=True)
    with lock(out / "locks" / f"{name}.lock", wait=True):
        yield


def linked(cache: Path, place: Path) -> Path:
    """A folder with links to a finished cache's files: a training locks the folder, not the files."""
    if not place.is_dir():
        part = place.with_name(f"{place.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(cache, part, copy_function=os.link, ignore=shutil.ignore_patterns("*.lock"))
        part.rename(place)
    return place


def processors(workers: int, threads: int) -> list[set[int]]:
    """Of each process, the processors of its own; all of them where they do not suffice."""
    here = sorted(os.sched_getaffinity(0))
    if workers * threads > len(here):
        return [set(here)] * workers
    return [set(here[i * threads : (i + 1) * threads]) for i in range(workers)]


def run_workers(line: Sequence[str], workers: int, threads: int, minutes: float | None) -> int:
    """Run `python LINE --worker N` so many times at once, pinned, for so many minutes; 0 where all ended
    well by themselves."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment["TQDM_DISABLE"] = "1"
    end = None if minutes is None else time.monotonic() + 60 * minutes
    started = []
    for number, own in enumerate(processors(workers, threads)):
        each = subprocess.Popen([sys.executable, *line, "--worker", str(number)], env=environment)
        os.sched_setaffinity(each.pid, own)
        started.append(each)
    try:
        for each in started:
            each.wait(None if end is None else max(0.0, end - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        stop(started)
    return max(abs(each.returncode) for each in started)


def stop(started: Sequence[subprocess.Popen]) -> None:
    """Ask processes to end, and end those that do not in time."""
    for each in started:
        if each.poll() is None:
            each.send_signal(signal.SIGTERM)
    last = time.monotonic() + LAST
    for each in started:
        try:
            each.wait(max(0.1, last - time.monotonic()))
        except subprocess.TimeoutExpired:
            each.kill()
            each.wait()
