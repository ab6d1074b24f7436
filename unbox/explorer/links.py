"""Permanent links: what a query string opens. `?view=feature&f=up.0.1/17`, `?view=explore&r=RECIPE`, ...

One quick event answers a page's load: it opens the tab, fills the controls, and, where a picture has to be
made, writes down which; that starts a second event in the device's queue. A page without a link waits for
nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl

import gradio as gr

from unbox.errors import FieldError
from unbox.explorer.canvas_state import CanvasState
from unbox.explorer.events import BACK, Updates, event_value, html_component, listen
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.limits import Link
from unbox.explorer.packed_json import parse
from unbox.explorer.pages import (
    collections_page,
    compare_page,
    explore_page,
    feature_page,
    map_page,
    paint_page,
    plots_page,
    search_page,
)
from unbox.explorer.pages.search_page import SearchQuery
from unbox.explorer.shared_components import SharedComponents
from unbox.validation import checked, parsed, unknown, validated


@dataclass(frozen=True)
class Pages:
    """The pages that a link opens."""

    explore: explore_page.ExplorePage
    feature: feature_page.FeaturePage
    search: search_page.SearchPage
    paint: paint_page.PaintPage
    compare: compare_page.ComparePage
    plots: plots_page.PlotsPage
    map: map_page.MapPage
    collections: collections_page.CollectionsPage


def parameter(query: Mapping[str, str], name: str) -> str:
    """A value of the page's query string. Raises FieldError for one that is too long."""
    return checked(Link, name, str(query.get(name, "")), "link")


@validated
class ImageRequest:
    """Pictures that a link asks for, on one page."""

    view: Literal["explore", "paint", "compare"]
    r: Link
    other: Link = ""


@dataclass(frozen=True)
class Links:
    """What opens the pages from the query string of a request."""

    shared: SharedComponents
    pages: Pages
    image_request: gr.Textbox
    """Hidden; what is written here, as JSON, is made: the view and the recipes of the link."""

    def open(self, request: gr.Request) -> Updates:
        """Everything that can be shown at once of a page that is loaded."""
        return self.open_query(request.query_params) if parameter(request.query_params, "view") else gr.skip()

    def go_back(self, event: gr.EventData) -> Updates:
        """What the address says after Back or Forward."""
        text = event_value(event, "query", str) or ""
        query = dict(parse_qsl(checked(Link, "query", text, "link").removeprefix("?")))
        return self.open_query({"view": "explore"} | query)

    def open_query(self, request: Mapping[str, str]) -> Updates:
        """Everything that can be shown at once of a link."""
        view, shared, pages = parameter(request, "view"), self.shared, self.pages
        tab: Updates = {shared.tabs: gr.Tabs(selected=view)}
        if view == "feature" and (name := parameter(request, "f")):
            return feature_page.open_feature(shared, pages.feature, name)
        if view == "search":
            query = SearchQuery.from_link({name: parameter(request, name) for name in vars(SearchQuery())})
            return tab | pages.search.shown(query) | search_page.run_search(shared, pages.search, query)
        if view in ("explore", "paint", "compare"):
            return tab | self._image_page(request, view)
        if view == "collections" and (text := parameter(request, "c")):
            return collections_page.open_collection(shared, pages.collections, text)
        if view == "map" and (sae := parameter(request, "sae")):
            return map_page.open_map(shared, pages.map, sae, parameter(request, "colour"))
        if view == "plots" and parameter(request, "x"):
            given = {name: parameter(request, name) for name in ("x", "x_values", "y", "y_values")}
            return plots_page.open_plot(shared, pages.plots, given)
        if view not in ("feature", "blocks", "collections", "map", "plots"):
            raise FieldError("link", "view", view, unknown(view, [*vars(pages), "blocks"]))
        return tab

    def _image_page(self, request: Mapping[str, str], view: str) -> Updates:
        """The controls of a page with a picture filled, the picture requested; nothing without a recipe."""
        link = {"view": view, "r": parameter(request, "r"), "other": parameter(request, "other")}
        if not link["r"]:
            return {}
        recipe = self.shared.session.known(Recipe.from_link(link["r"]))
        opened = self.pages.paint.open_recipe(self.shared, recipe, "JSON") if view == "paint" else {}
        controls = vars(self.pages)[view].controls.updates(recipe)
        wanted = json.dumps(link)
        if self._at_hand(view, recipe, link["other"]):
            return opened | controls | self.make_image(wanted)
        return opened | controls | {self.image_request: wanted}

    def _at_hand(self, view: str, recipe: Recipe, other: str) -> bool:
        """Whether the pictures of a link need no run of the model."""
        session = self.shared.session
        if view == "paint":
            return session.has_pictures([recipe.plain, recipe])
        recipes = [recipe]
        if view == "compare":
            recipes.append(session.known(Recipe.from_link(other)) if other else recipe.plain)
        return all(session.at_hand(each) is not None for each in recipes)

    def make_image(self, text: str) -> Updates:
        """The pictures of a request that `open` has written, in their page."""
        link, session, pages = parsed(ImageRequest, parse(text), "link"), self.shared.session, self.pages
        recipe = session.known(Recipe.from_link(link.r))
        if link.view == "explore":
            return explore_page.make_image(self.shared, pages.explore, recipe)
        if link.view == "paint":
            made = paint_page.generate(session, recipe)
            return pages.paint.show(session, CanvasState(recipe), made, "JSON") | pages.paint.show_made(made)
        # without a second recipe it is compared with itself unedited
        other = session.known(Recipe.from_link(link.other)) if link.other else recipe.plain
        return pages.compare.open_link(session, recipe, other)


def wire(app: gr.Blocks, shared: SharedComponents, pages: Pages) -> None:
    """Open what the link says when the page is loaded."""
    image_request = gr.Textbox(visible="hidden", elem_id="ub-image-request")
    links = Links(shared, pages, image_request)
    controls = [c for page in (pages.explore, pages.paint, pages.compare) for c in page.controls.components]
    opened = [
        *feature_page.outputs(shared, pages.feature), *search_page.outputs(shared, pages.search),
        *controls, *pages.paint.opened, image_request, *plots_page.outputs(shared, pages.plots),
        *map_page.outputs(shared, pages.map), *collections_page.outputs(shared, pages.collections),
    ]  # fmt: skip
    made = [*explore_page.outputs(shared, pages.explore), *pages.paint.outputs, pages.paint.made,
            pages.paint.result, *pages.compare.linked_outputs]  # fmt: skip
    shown = list(dict.fromkeys([*opened, *made]))
    listen(app.load, links.open, None, shown, show_progress="hidden")
    history = html_component("", BACK, elem_id="ub-history")
    listen(history.input, links.go_back, None, shown, show_progress="hidden").then(
        None,
        None,
        None,
        js="() => window.unboxHistory.named()",
        api_visibility="private",
        show_progress="hidden",
    )
    listen(image_request.change, links.make_image, [image_request], list(dict.fromkeys(made)), device=True)
