"""Stops from outside: SIGINT (Ctrl-C), SIGTERM (Slurm, Kubernetes, systemd) and SIGHUP end a command where no
finished work is lost.

Inside `stopping()` such a signal raises `Stopped` in the main thread, at once; inside a `unit()`, an
indivisible piece of work, when the unit has ended. Python drops an exception that is raised in a destructor:
`stop_point()`, at every step of sampling and training, raises it again.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
#: Seconds in which further signals are the same stop: `torchrun` sends two, a terminal one to each process.
SAME_STOP = 1.0


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop. `options`: what the line that goes on needs besides what was typed,
    a seed that was drawn, say. Its notes say what is kept."""

    def __init__(self, number: int, options: tuple[str, ...] = ()) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.options = number, options

    @property
    def code(self) -> int:
        """The exit code that shells give it: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


@dataclass
class _State:
    """What has been asked of this process."""

    received: int | None = None
    """The signal, once there was one."""
    when: float = 0.0
    """Of the first signal."""
    units: int = 0
    """Units in work, one in another."""


_state = _State()


@contextmanager
def stopping() -> Iterator[None]:
    """Inside, signals stop as this module says; afterwards they do what they did before. A signal that is
    ignored (by `nohup`, or for a shell's background job) stays ignored. Does nothing outside of the main
    thread, which alone is told of signals."""
    global _state
    if not _in_main_thread():
        yield
        return
    handled = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    outer, _state = _state, _State()
    before = {number: signal.signal(number, _receive) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _state = outer


@contextmanager
def consequences() -> Iterator[None]:
    """A RuntimeError after a signal is raised as Stopped: when one process of a group stops, the collectives
    of the others break."""
    try:
        yield
    except RuntimeError as error:
        if _state.received is None:
            raise
        raise Stopped(_state.received) from error


@contextmanager
def unit(last: bool = False) -> Iterator[None]:
    """An indivisible piece of work: a stop waits for its end. It takes seconds at most, or looks for a stop
    itself (`stop_asked`). `last`: no work follows, and from here on no stop is raised any more; the command
    ends as finished."""
    if not _in_main_thread():
        yield
        return
    _state.units += 1
    try:
        yield
    except BaseException:
        _state.units -= 1
        raise
    if not last:
        _state.units -= 1
        stop_point()


@contextmanager
def unit_at_exit(context: AbstractContextManager[T]) -> Iterator[T]:
    """A context that is left as a unit: what it keeps when it ends is kept."""
    with ExitStack() as stack:
        value = stack.enter_context(context)
        end = stack.pop_all()
    try:
        yield value
    except BaseException as error:
        with unit():
            end.__exit__(type(error), error, error.__traceback__)
        raise
    else:
        with unit():
            end.close()


def stop_point() -> None:
    """Raise Stopped if a stop was asked for and no unit is in work. Does nothing in other threads."""
    if not _state.units and (stop := stop_asked()) is not None:
        raise stop


def stop_asked() -> Stopped | None:
    """The stop that was asked for, to be raised by long work in a unit once it is saved; None: go on."""
    return Stopped(_state.received) if _state.received is not None and _in_main_thread() else None


def _receive(number: int, frame: FrameType | None) -> None:
    """The first signal is raised unless a unit is in work; a later one always."""
    if _state.received is None:
        _state.received, _state.when = number, time.monotonic()
        stop_point()
    elif time.monotonic() - _state.when > SAME_STOP:
        raise Stopped(number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
