"""What pages share: the lab, the stop switches, the tabs and the link; and how one page opens another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from unbox.explorer.events import Stops, on
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.session import Lab, Sight

#: Pixels of a side up to which a picture is made when the app starts.
SMALL = 128
#: Puts a page's query string into the address bar, without loading anything.
SET_LINK = "(link) => { if (link) window.history.replaceState(null, '', link); }"


@dataclass(frozen=True)
class Opening:
    """What the pages show before anything is asked for."""

    recipe: Recipe
    sight: Sight | None = None
    """The recipe's picture, where a picture is made at once."""
    feature: str = ""
    """A feature whose label foretells well where it fires."""

    @classmethod
    def of(cls, lab: Lab, prompt: str) -> "Opening":
        """The lab's own opening: with a picture where that takes no time, in the Shapes world."""
        recipe = replace(lab.defaults(lab.default), prompt=prompt)
        small = lab.model(lab.default).size <= SMALL
        found = [] if lab.atlas is None else lab.atlas.search(labelled=True, order="label score", limit=1)
        there = [facts.name for facts in found if facts.name.rpartition("/")[0] in lab.saes]
        return cls(recipe, lab.look(recipe) if small else None, *there[:1])


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

    def stoppable(self, button: Any, runs: Sequence[Any]) -> None:
        """The button stops this session's run at its next step, and takes back what still waits."""
        on(button.click, self.stops.stop, None, None, queue=False, cancels=list(runs))


# Gradio takes "page" of a query string for itself.
def link(page: str, **query: str) -> str:
    """The query string of a page's permanent link."""
    return "?" + urlencode({"view": page, **query})


def told(progress: Any, steps: int) -> Any:
    """What tells Gradio's progress bar how far a run is; None where nobody looks."""
    return None if progress is None else lambda done: progress((done, steps), desc="sampling", unit="steps")


def select(page: str) -> Any:
    """An update of the tabs that opens a page."""
    return gr.Tabs(selected=page)
