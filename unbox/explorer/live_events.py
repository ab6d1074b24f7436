"""Live on the Paint page: a frame for each change, while a strength is dragged too."""

import io
import time

from unbox.explorer.canvas_state import CanvasState
from unbox.explorer.events import FieldValue, Updates, listen
from unbox.explorer.html import render
from unbox.explorer.live_sampler import LiveFrame
from unbox.explorer.pages.paint_page import PaintPage
from unbox.explorer.session import ExplorerSession
from unbox.image_uri import data_uri

#: Quality of a frame's JPEG: what stays is a picture without a bit lost.
QUALITY = 90


def request() -> str:
    """What, written into the page's `frame_request`, asks for a frame: no two are equal."""
    return str(time.monotonic_ns())


def frame_html(frame: LiveFrame) -> str:
    """A frame, and how fast they come."""
    stream = io.BytesIO()
    frame.image.save(stream, "JPEG", quality=QUALITY)
    image = data_uri(stream.getvalue(), "jpeg")
    return render("live_frame.html", image=image, pixels=frame.image, frame=frame)


def wire(session: ExplorerSession, page: PaintPage) -> None:
    """Frames when they are asked for; none once live is switched off."""

    def draw(live: bool, state: CanvasState, guard: bool, *values: FieldValue) -> Updates:
        if not live:
            return {page.frame: ""}
        recipe = page.wanted(state, guard, values)
        return {page.frame: frame_html(session.live_sampler(recipe).draw(session.edits_of(recipe)))}

    inputs = [page.live, page.state, *page.settings]
    for event in (page.frame_request.change, page.live.input):
        listen(event, draw, inputs, [page.frame], device=True, show_progress="hidden",
               trigger_mode="always_last")  # fmt: skip
