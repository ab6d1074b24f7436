"""What every page needs from Gradio: events that report the user's errors, clicks on HTML."""

from collections.abc import Callable, Collection, Sequence
from functools import wraps
from html import escape
from pathlib import Path
from typing import Literal, ParamSpec, TypeAlias, TypeVar

import gradio as gr
from gradio.events import Dependency

from activation_store import StoreError
from unbox.errors import UnboxError
from unbox.explorer.device_runs import on_device
from unbox.explorer.queue_limits import DEVICE

#: The queue of quick events that come one after another, as strokes do.
IN_ORDER = "in order"


def _asset(name: str) -> str:
    """A script or style of the pages."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


#: How the page opens the link that Back and Forward come to; the rest is HISTORY, in the page's head.
BACK = "window.unboxHistory.back = (query) => trigger('input', { query });"
#: CLICKS hands a click on an element with `data-go`, or the place of one on `data-place`, to the server.
CLICKS = _asset("clicks.js")
PAINT = _asset("paint.js")
LAYERS = _asset("layers.js")
PALETTE = _asset("palette.js")
SWATCHES = _asset("swatches.js")
TOUR = _asset("tour.js")
DROP = _asset("drop.js")
KEYS = _asset("keys.js")
RERUN = _asset("rerun.js")
HISTORY = _asset("history.js")
ERRORS = _asset("errors.js")
COLLECTIONS = _asset("collections.js")
COLLECTION = _asset("collection.js")
MAP = _asset("map.js")
STYLE = _asset("style.css")

#: What an event answers: the new value, or an update, of each component that it changes.
Updates: TypeAlias = dict[gr.blocks.Block, object]
#: What a component of a form sends. (Gradio evaluates the annotations of an event's function in its module: a
#: name that is not there, as those inside of `JSON`, and it passes no request and no progress.)
FieldValue: TypeAlias = str | float | bool | None

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", str, int, float)


def html_component(value: str = "", script: str = CLICKS, *, elem_id: str | None = None) -> gr.HTML:
    """HTML whose buttons speak to the server: `.click` with what `data-go` holds, `.select` with a place."""
    return gr.HTML(value, js_on_load=script, apply_default_css=False, padding=False, elem_id=elem_id)


def listen(
    event: Callable[..., Dependency],
    fn: Callable[..., R],
    inputs: Collection[gr.blocks.Block] | None,
    outputs: Sequence[gr.blocks.Block] | None,
    *,
    device: bool = False,
    show_progress: Literal["minimal", "hidden"] = "minimal",
    progress_on: gr.components.Component | None = None,
    in_order: bool = False,
    trigger_mode: Literal["once", "multiple", "always_last"] | None = None,
) -> Dependency:
    """Wire an event of a page. It is no API endpoint: those are in `unbox.explorer.api`.

    `device`: it runs the model, so it waits in the device's queue. `progress_on`: the one output over which
    progress, and that it failed, is shown; None: all of them. `in_order`: none is lost while another is on
    its way, and each begins when the one before has ended.
    """
    answer = on_device(with_user_errors(fn)) if device else with_user_errors(fn)
    queue = DEVICE if device else IN_ORDER if in_order else None
    return event(
        answer, inputs, outputs, concurrency_limit=1 if queue else "default", concurrency_id=queue,
        show_progress=show_progress, show_progress_on=progress_on, api_visibility="private",
        trigger_mode="multiple" if in_order else trigger_mode,
    )  # fmt: skip


def with_user_errors(fn: Callable[P, R]) -> Callable[P, R]:
    """The function with mistakes of the user turned into Gradio's messages, which `errors.js` puts beside the
    field that they name. Texts in them are escaped."""

    @wraps(fn)
    def answer(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return fn(*arguments, **named)
        except (UnboxError, StoreError) as error:
            raise gr.Error(escape(str(error)), print_exception=False) from None

    return answer


def event_value(event: gr.EventData, name: str, kind: type[T]) -> T | None:
    """What a click's data says under a name, if it is of the kind that it should be; else None."""
    value = event._data.get(name) if isinstance(event._data, dict) else None
    whole = kind is float and isinstance(value, int)  # a browser writes 0.0 as 0
    return value if (whole or isinstance(value, kind)) and not isinstance(value, bool) else None  # type: ignore[return-value]
