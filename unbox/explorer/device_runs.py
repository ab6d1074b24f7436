"""Runs of the model for Gradio's events: one at a time, shown in the progress bar, ended with their event."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from itertools import count
from typing import ParamSpec, TypeVar

import anyio.to_thread
import gradio as gr
import torch

from unbox.models import Hookable

P = ParamSpec("P")
R = TypeVar("R")

#: The stop switch of the run that a thread is at work on.
_STOP: ContextVar[threading.Event | None] = ContextVar("stop", default=None)
#: Held by the thread that works with the model.
_MODEL = threading.Lock()


#: Seconds that the latest runs took, as a running mean; empty before the first.
_SECONDS: list[float] = []


def seconds_a_run() -> float:
    """Seconds that a run takes, by the latest ones; 1 before the first."""
    return _SECONDS[0] if _SECONDS else 1.0


class Cancelled(Exception):
    """The run was stopped by its user."""


def on_device(fn: Callable[P, R]) -> Callable[P, Coroutine[None, None, R]]:
    """An event's function in a thread that has the model to itself. An event that is cancelled stops its own
    run, whatever has begun since, at the next step of the sampler: Gradio alone would leave the thread at
    work and go on to the next event."""

    @wraps(fn)
    async def answer(*arguments: P.args, **named: P.kwargs) -> R:
        stop = threading.Event()

        def run() -> R:
            with _MODEL:
                _STOP.set(stop)
                began = time.monotonic()
                answered = fn(*arguments, **named)
                seconds = time.monotonic() - began
                _SECONDS[:] = [0.8 * seconds_a_run() + 0.2 * seconds if _SECONDS else seconds]
                return answered

        try:
            return await anyio.to_thread.run_sync(run)
        except asyncio.CancelledError:
            stop.set()
            raise

    return answer


class ProgressHook:
    """A hook on the UNet that shows in Gradio's progress bar how many steps of an event's run are done, and
    ends the run with `Cancelled` when its event was cancelled. Outside of events it does nothing."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @contextmanager
    def attach(self, model: Hookable, rows: Sequence[int] | None) -> Iterator[None]:
        """Attach for a run."""
        stop, progress, done = _STOP.get(), gr.Progress(), count()

        def before_step(unet: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if stop is not None and stop.is_set():
                raise Cancelled
            progress((next(done), self.steps), desc="sampling", unit="steps")

        handle = model.unet.register_forward_pre_hook(before_step)
        try:
            yield
        finally:
            handle.remove()
