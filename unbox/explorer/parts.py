"""What pages share: the lab, the stop switches, the tabs and the link; and how one page opens another."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from unbox.explorer.lab import Lab
from unbox.explorer.shell import Stops

#: Puts a page's query string into the address bar, without loading anything.
SET_LINK = "(link) => { if (link) window.history.replaceState(null, '', link); }"


@dataclass(frozen=True)
class Shell:
    """Made once for an app, before its pages are wired."""

    lab: Lab
    stops: Stops
    tabs: Any
    link: Any
    pages: dict[str, Any]
    """What `draw` of each page gave, by the page's name."""

    def linked(self, event: Any) -> Any:
        """After an event that changes the link: show it."""
        return event.then(
            None, self.link, None, js=SET_LINK, api_visibility="private", show_progress="hidden"
        )


# Gradio takes "page" of a query string for itself.
def link(page: str, **query: str) -> str:
    """The query string of a page's permanent link."""
    return "?" + urlencode({"view": page, **query})


def select(page: str) -> Any:
    """An update of the tabs that opens a page."""
    return gr.Tabs(selected=page)
