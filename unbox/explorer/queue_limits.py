"""How much may wait. Runs of the model are bounded on their own: no question is refused for them."""

from typing import Literal, TypeAlias

import gradio as gr
from fastapi import Request
from gradio.data_classes import PredictBodyInternal
from gradio.route_utils import get_fn

from unbox.explorer.device_runs import seconds_a_run

#: The queue of everything that runs the model: one at a time.
DEVICE = "device"
#: Runs of the model that may wait; further ones are told when to try again.
RUNS = 32
#: Requests of all kinds that may wait.
REQUESTS = 1000

_Pushed: TypeAlias = tuple[bool, str | list, Literal["success", "error", "queue_full", "validator_error"]]


def bound_runs(app: gr.Blocks) -> None:
    """Refuse runs of the model beyond `RUNS` that wait, saying how many do and how long they take. Gradio's
    own bound is one for all that waits."""
    queue = app._queue
    push = queue.push

    async def push_bounded(body: PredictBodyInternal, request: Request, username: str | None) -> _Pushed:
        if get_fn(app, None, body).concurrency_id == DEVICE:
            runs = queue.event_queue_per_concurrency_id.get(DEVICE)
            waiting = 0 if runs is None else len(runs.queue)
            if waiting >= RUNS:
                return False, full(waiting), "queue_full"
        return await push(body, request, username)

    queue.push = push_bounded  # type: ignore[method-assign]  # the one place that sees who asks for what


def full(waiting: int) -> str:
    """What a run is told that cannot wait any more."""
    seconds = max(1, round(waiting * seconds_a_run()))
    return f"{waiting} pictures wait already, {RUNS} at most: try again in about {seconds} s"
