"""Permanent links: what a query string opens. `?view=feature&f=up.0.1/17`, `?view=explore&r=RECIPE`, ...

One quick event answers a page's load: it opens the tab, fills the controls, and, where a picture has to be
made, writes down which; that starts a second event in the device's queue. A page without a link waits for
nothing.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import gradio as gr

from activation_store.files import parse_json
from unbox.errors import UnboxError
from unbox.explorer.canvas import result_html
from unbox.explorer.canvas_state import CanvasState
from unbox.explorer.events import Updates, listen
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.pages import compare_page, explore_page, feature_page, paint_page, search_page
from unbox.explorer.shared_components import SharedComponents, progress_callback, select

#: Longest value of a query string that is looked at.
LONGEST = 60_000


@dataclass(frozen=True)
class Pages:
    """The pages that a link opens."""

    explore: explore_page.ExplorePage
    feature: feature_page.FeaturePage
    search: search_page.SearchPage
    paint: paint_page.PaintPage
    compare: compare_page.ComparePage


def parameter(request: gr.Request, name: str) -> str:
    """A value of the page's query string. Raises UnboxError for one that is too long."""
    value = str(request.query_params.get(name, ""))
    if len(value) > LONGEST:
        raise UnboxError("this link is too long")
    return value


@dataclass(frozen=True)
class Links:
    """What opens the pages from the query string of a request."""

    shared: SharedComponents
    pages: Pages
    image_request: gr.Textbox
    """Hidden; what is written here, as JSON, is made: the view and the recipes of the link."""

    def open(self, request: gr.Request) -> Updates:
        """Everything that can be shown at once."""
        view = parameter(request, "view")
        if view in ("", "blocks"):
            return {self.shared.tabs: select(view)} if view else gr.skip()
        openers: dict[str, Callable[[gr.Request], Updates]] = {
            "feature": self._feature, "search": self._search,
            **dict.fromkeys(("explore", "paint", "compare"), self._image_page),
        }  # fmt: skip
        if view not in openers:
            names = ", ".join([*vars(self.pages), "blocks"])
            raise UnboxError(f"there is no page '{view[:40]}'; there are {names}")
        return openers[view](request)

    def _feature(self, request: gr.Request) -> Updates:
        name = parameter(request, "f")
        return (
            feature_page.open_feature(self.shared, self.pages.feature, name)
            if name
            else {self.shared.tabs: select("feature")}
        )

    def _search(self, request: gr.Request) -> Updates:
        names = vars(search_page.SearchQuery())
        query = search_page.SearchQuery.from_link({name: parameter(request, name) for name in names})
        return {
            **search_page.open_search(self.shared, self.pages.search, query),
            self.shared.tabs: select("search"),
        }

    def _image_page(self, request: gr.Request) -> Updates:
        """A page with a picture: its controls filled, the picture requested."""
        link = {name: parameter(request, name) for name in ("view", "r", "other")}
        updates: Updates = {self.shared.tabs: select(link["view"])}
        if not link["r"]:
            return updates
        recipe = self._recipe(link["r"])
        if link["view"] == "paint":
            updates |= self.pages.paint.open_recipe(self.shared, recipe, "JSON")
        controls = vars(self.pages)[link["view"]].controls
        return {**updates, **controls.updates(recipe), self.image_request: json.dumps(link)}

    def make_image(
        self, text: str, request: gr.Request, progress: gr.Progress = gr.Progress()  # noqa: B008
    ) -> Updates:  # fmt: skip
        """The pictures of a request that `open` has written, in their page."""
        link = parse_json(text, "the link")
        makers = {"explore": self._make_explore, "paint": self._make_paint, "compare": self._make_compare}
        return makers[link["view"]](link, request, progress)

    def _make_explore(self, link: Mapping[str, str], request: gr.Request, progress: gr.Progress) -> Updates:
        return explore_page.make_image(
            self.shared, self.pages.explore, self._recipe(link["r"]), request, progress
        )

    def _make_paint(self, link: Mapping[str, str], request: gr.Request, progress: gr.Progress) -> Updates:
        recipe, page, session = self._recipe(link["r"]), self.pages.paint, self.shared.session
        with self.shared.stop_switches.running(request) as stop:
            report = progress_callback(progress, recipe.steps)
            state = paint_page.generate(session, CanvasState(recipe), stop, report)
        return page.show(session, state, "JSON") | {page.result: result_html(state)}

    def _make_compare(self, link: Mapping[str, str], request: gr.Request, progress: gr.Progress) -> Updates:
        """A link without the second recipe compares with itself unedited."""
        one = self._recipe(link["r"])
        two = self._recipe(link["other"]) if link["other"] else one.plain
        return {self.pages.compare.result: compare_page.compare(self.shared, one, two, request, progress)}

    def _recipe(self, link: str) -> Recipe:
        """The recipe of a link, of a system that is here."""
        recipe, systems = Recipe.from_link(link), self.shared.session.systems
        if recipe.system not in systems:
            raise UnboxError(f"this link is to a picture of {recipe.system}; "
                             f"here there are {', '.join(systems)}")  # fmt: skip
        return recipe


def wire(app: gr.Blocks, shared: SharedComponents, pages: Pages) -> None:
    """Open what the link says when the page is loaded."""
    image_request = gr.Textbox(visible="hidden", elem_id="ub-image-request")
    links = Links(shared, pages, image_request)
    controls = [c for page in (pages.explore, pages.paint, pages.compare) for c in page.controls.components]
    opened = [
        *feature_page.outputs(shared, pages.feature), *search_page.outputs(shared, pages.search),
        *controls, *pages.paint.opened, image_request,
    ]  # fmt: skip
    made = [*explore_page.outputs(shared, pages.explore), *pages.paint.outputs, pages.paint.result,
            pages.compare.result]  # fmt: skip
    listen(app.load, links.open, None, list(dict.fromkeys(opened)), show_progress="hidden")
    listen(image_request.change, links.make_image, [image_request], list(dict.fromkeys(made)), device=True)
