"""What pages share: the session, the stop switches, the tabs and the link; and how one page opens another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from unbox.atlas import Filter
from unbox.explorer.events import StopSwitches, listen
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.session import ExplorerSession, RecordedImage

#: Pixels of a side up to which a picture is made when the app starts.
SMALL = 128
#: Puts a page's query string into the address bar, without loading anything.
SET_LINK = "(link) => { if (link) window.history.replaceState(null, '', link); }"


@dataclass(frozen=True)
class InitialState:
    """What the pages show before anything is asked for."""

    recipe: Recipe
    recorded: RecordedImage | None = None
    """The recipe's picture, where a picture is made at once."""
    feature: str = ""
    """A feature whose label foretells well where it fires."""

    @classmethod
    def of(cls, session: ExplorerSession, prompt: str) -> "InitialState":
        """The session's own: with a picture where that takes no time, in the Shapes world."""
        recipe = replace(session.defaults(session.default), prompt=prompt)
        small = session.model(session.default).size <= SMALL
        atlas, labelled = session.atlas, Filter(labelled=True)
        found = [] if atlas is None else atlas.search("", labelled, order="label score", limit=1)
        there = [facts.name for facts in found if facts.name.rpartition("/")[0] in session.saes]
        return cls(recipe, session.record(recipe) if small else None, *there[:1])


@dataclass(frozen=True)
class SharedComponents:
    """Made once for an app, before its pages are wired."""

    session: ExplorerSession
    stop_switches: StopSwitches
    tabs: Any
    link: Any
    pages: dict[str, Any]
    """What `draw` of each page gave, by the page's name."""

    def linked(self, event: Any) -> Any:
        """After an event that changes the link: show it."""
        return event.then(
            None, self.link, None, js=SET_LINK, api_visibility="private", show_progress="hidden"
        )

    def stoppable(self, button: Any, runs: Sequence[Any]) -> None:
        """The button stops this session's run at its next step, and takes back what still waits."""
        listen(button.click, self.stop_switches.stop, None, None, queue=False, cancels=list(runs))


# Gradio takes "page" of a query string for itself.
def link(page: str, **query: str) -> str:
    """The query string of a page's permanent link."""
    return "?" + urlencode({"view": page, **query})


def progress_callback(progress: Any, steps: int) -> Any:
    """What tells Gradio's progress bar how far a run is; None where nobody looks."""
    return None if progress is None else lambda done: progress((done, steps), desc="sampling", unit="steps")


def select(page: str) -> Any:
    """An update of the tabs that opens a page."""
    return gr.Tabs(selected=page)
