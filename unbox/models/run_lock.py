"""A model runs in one thread at a time: hooks, clock and scheduler are of the run, whoever calls the UNet.

The lock belongs to the UNet, so that two `Model`s of one UNet share it. A thread that holds it may take it
again (`generate` inside `record`); others wait, or are refused by name.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from unbox.errors import UnboxError

#: Seconds after which a thread that waits looks whether the thread that it waits for still lives.
_LOOK = 1.0
#: Guards all locks, and is notified when one is let go.
_CHANGED = threading.Condition()


class Pipelines(Protocol):
    """What the lock needs of a model."""

    @property
    def pipelines(self) -> Sequence[DiffusionPipeline]:
        """Every pipeline that samples."""
        ...


class RunLock:
    """Who runs a UNet. Re-entrant in its thread; let go when its outermost context ends, wherever."""

    def __init__(self) -> None:
        self._runs: list[str] = []
        self.holder: threading.Thread | None = None
        """The thread that holds it."""

    @contextmanager
    def hold(self, doing: str, wait: bool) -> Iterator[None]:
        """Hold it until the context ends; see `exclusive`."""
        me = threading.current_thread()
        with _CHANGED:
            while self.holder is not None and self.holder is not me:
                self._refuse(doing, self.holder, wait)
                _WAITING[me] = self
                try:
                    _CHANGED.wait(_LOOK)
                finally:
                    del _WAITING[me]
            self.holder = me
            self._runs.append(doing)
        try:
            yield
        finally:
            with _CHANGED:
                self._runs.pop()
                if not self._runs:
                    self.holder = None
                    _CHANGED.notify_all()

    def _refuse(self, doing: str, holder: threading.Thread, wait: bool) -> None:
        """Raise UnboxError where this thread may not wait, or would wait for ever."""
        who = f"{doing} is refused: thread '{holder.name}' has this model, for {self._runs[0]}"
        if not wait:
            raise UnboxError(f"{who}; wait for it (wait=True), or load the model a second time")
        if not holder.is_alive():
            raise UnboxError(f"{who}, and has ended without leaving it: close what it left open")
        seen, other = set[threading.Thread](), holder
        while other in _WAITING and other not in seen:
            seen.add(other)
            other = _WAITING[other].holder or other
        if other is threading.current_thread():
            raise UnboxError(f"{who}, and waits for one that this thread has: take both in one order")


#: Which lock a thread waits for.
_WAITING: dict[threading.Thread, RunLock] = {}
_LOCKS: "WeakKeyDictionary[torch.nn.Module, RunLock]" = WeakKeyDictionary()


def locks_of(model: Pipelines) -> list[RunLock]:
    """The locks of a model's UNets, each once, in an order that is the same for all models."""
    with _CHANGED:
        found = [_LOCKS.setdefault(pipeline.unet, RunLock()) for pipeline in model.pipelines]
    return sorted(dict.fromkeys(found), key=id)


@contextmanager
def exclusive(model: Pipelines, doing: str = "a run", wait: bool = True) -> Iterator[None]:
    """Have the model alone until the context ends: other threads wait, or are refused where `wait` is false.

    `doing`: what the others are told. Raises UnboxError that names the thread that has it, also where waiting
    would never end: that thread has ended, or waits for a model that this one has.
    """
    with ExitStack() as stack:
        for lock in locks_of(model):
            stack.enter_context(lock.hold(doing, wait))
        yield


def holds(model: Pipelines) -> bool:
    """Whether the present thread has the model."""
    return any(lock.holder is threading.current_thread() for lock in locks_of(model))
