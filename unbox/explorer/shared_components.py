"""What pages share: the session, the tabs and the link; and how one page opens another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

import gradio as gr
from gradio.events import Dependency

from unbox.atlas import Filter
from unbox.explorer.feature_summaries import seen_here
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.recorded_image import RecordedImage
from unbox.explorer.session import ExplorerSession

#: Pixels of a side up to which a picture is made when the app starts.
SMALL = 128
#: Puts a page's query string into the address bar, as a step that Back takes back; see `history.js`.
SET_LINK = "(link) => window.unboxHistory.show(link)"


@dataclass(frozen=True)
class InitialState:
    """What the pages show before anything is asked for."""

    recipe: Recipe
    recorded: RecordedImage | None = None
    """The recipe's picture, where a picture is made at once."""
    feature: str = ""
    """A feature that fires in the picture and whose label foretells well where it fires."""

    @classmethod
    def of(cls, session: ExplorerSession, prompt: str) -> "InitialState":
        """The session's own: with a picture where that takes no time, in the Shapes world."""
        recipe = replace(session.defaults(session.default), prompt=prompt)
        small = session.model(session.default).size <= SMALL
        recorded = session.record(recipe) if small else None
        seen = [] if recorded is None else [chip.name for chip in seen_here(session, recorded)]
        return cls(recipe, recorded, *(seen or _best_labelled(session))[:1])


def _best_labelled(session: ExplorerSession) -> list[str]:
    """The feature whose label foretells best, where one of a session's SAEs has it."""
    atlas, labelled = session.atlas, Filter(labelled=True)
    best = [] if atlas is None else atlas.search("", labelled, order="label score", limit=1)
    return [facts.name for facts in best if facts.name.rpartition("/")[0] in session.saes]


@dataclass(frozen=True)
class SharedComponents:
    """Made once for an app, before its pages are wired."""

    session: ExplorerSession
    tabs: gr.Tabs
    link: gr.Textbox
    """The query string of what is shown, for the address bar."""

    def show_link(self, event: Dependency) -> None:
        """After an event that changes the link: show it."""
        event.then(None, self.link, None, js=SET_LINK, api_visibility="private", show_progress="hidden")

    def wire_runs(self, runs: Sequence[Dependency], stop: gr.Button) -> None:
        """After each of the runs its link is shown; the button stops this visitor's run at its next step, and
        takes back what still waits."""
        for run in runs:
            self.show_link(run)
        stop.click(None, cancels=list(runs), api_visibility="private")


# Gradio takes "page" of a query string for itself.
def link(page: str, **query: str) -> str:
    """The query string of a page's permanent link."""
    return "?" + urlencode({"view": page, **query})
