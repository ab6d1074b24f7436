"""Permanent links: what a query string opens. `?view=feature&f=up.0.1/17`, `?view=explore&r=RECIPE`, ...

One quick event answers a page's load: it opens the tab, fills the controls, and, where a picture has to be
made, writes a wish; the wish is fulfilled in the device's queue. A page without a link waits for nothing.
"""

import json
from typing import Any

import gradio as gr

from activation_store.files import parse_json
from unbox.errors import UnboxError
from unbox.explorer import generation_controls
from unbox.explorer.events import listen
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.pages import compare_page, explore_page, feature_page, paint_page, search_page
from unbox.explorer.shared_components import SharedComponents, progress_callback, select

#: Longest value of a query string that is looked at.
LONGEST = 60_000
#: What a component shows, by component.
Shown = dict[Any, Any]


def query(request: gr.Request, name: str) -> str:
    """A value of the page's query string. Raises UnboxError for one that is too long."""
    value = str(request.query_params.get(name, ""))
    if len(value) > LONGEST:
        raise UnboxError("this link is too long")
    return value


def recipe_in(shared: SharedComponents, link: str) -> Recipe:
    """The recipe of a link, of a system that is here."""
    recipe = Recipe.from_link(link)
    if recipe.system not in shared.session.systems:
        raise UnboxError(f"this link is to a picture of {recipe.system}; "
                         f"here there are {', '.join(shared.session.systems)}")  # fmt: skip
    return recipe


def wire(app: Any, shared: SharedComponents) -> None:
    """Open what the link says when the page is loaded."""
    pages = shared.pages
    wish = gr.Textbox(visible="hidden", elem_id="ub-wish")
    made = [*explore_page.outputs(shared), *paint_page.made(shared), pages["compare"].result]
    filled = [c for name in ("explore", "paint", "compare") for c in pages[name].controls.components]
    opened = [
        *feature_page.outputs(shared),
        *search_page.outputs(shared),
        *filled,
        *paint_page.arrivals(shared),
        wish,
    ]

    def arrive(request: gr.Request) -> Shown:
        view = query(request, "view")
        if view in ("", "blocks"):
            return {shared.tabs: select(view)} if view else {shared.link: gr.skip()}
        if view not in OPEN:
            raise UnboxError(f"there is no page '{view[:40]}'; there are {', '.join(pages)}")
        return OPEN[view](shared, request, wish)

    def fulfil(text: str, request: gr.Request, progress: gr.Progress = gr.Progress()) -> Shown:  # noqa: B008
        asked = parse_json(text, "the link")
        return MAKE[asked["view"]](shared, asked, request, progress)

    listen(app.load, arrive, None, list(dict.fromkeys(opened)), show_progress="hidden")
    listen(wish.change, fulfil, [wish], list(dict.fromkeys(made)), device=True)


def to_feature(shared: SharedComponents, request: gr.Request, _: Any) -> Shown:
    """A feature's page."""
    name = query(request, "f")
    return feature_page.open_feature(shared, name) if name else {shared.tabs: select("feature")}


def to_search(shared: SharedComponents, request: gr.Request, _: Any) -> Shown:
    """Search with everything that was asked for."""
    names = vars(search_page.SearchQuery())
    asked = search_page.SearchQuery.from_link({name: query(request, name) for name in names})
    return {**search_page.open_search(shared, asked), shared.tabs: select("search")}


def to_made(shared: SharedComponents, request: gr.Request, wish: Any) -> Shown:
    """A page with a picture: its controls filled at once, the picture wished for."""
    view, links = query(request, "view"), {k: query(request, k) for k in ("r", "other")}
    shown = {shared.tabs: select(view)}
    if not links["r"]:
        return shown
    recipe = recipe_in(shared, links["r"])
    if view == "paint":
        values = paint_page.restore(shared.session, recipe, "JSON")
        shown |= dict(zip(paint_page.arrivals(shared), values, strict=True))
    shown |= dict(
        zip(shared.pages[view].controls.components, generation_controls.values_of(recipe), strict=True)
    )
    return {**shown, wish: json.dumps({"view": view, **links})}


def make_explore(shared: SharedComponents, asked: dict[str, str], request: Any, progress: Any) -> Shown:
    """Explore's picture and what fires in it."""
    return explore_page.make_image(shared, recipe_in(shared, asked["r"]), request, progress)


def make_paint(shared: SharedComponents, asked: dict[str, str], request: Any, progress: Any) -> Shown:
    """Paint's before and after."""
    recipe = recipe_in(shared, asked["r"])
    with shared.stop_switches.running(request) as stop:
        sheet = paint_page.Sheet(recipe)
        sheet = paint_page.paint(
            shared.session, sheet, stop, progress=progress_callback(progress, recipe.steps)
        )
    values = (*paint_page.shown(shared.session, sheet, "JSON"), paint_page.result_html(sheet))
    return dict(zip(paint_page.made(shared), values, strict=True))


def make_compare(shared: SharedComponents, asked: dict[str, str], request: Any, progress: Any) -> Shown:
    """Compare's two pictures; a link without the second recipe compares with itself unedited."""
    one = recipe_in(shared, asked["r"])
    two = recipe_in(shared, asked["other"]) if asked["other"] else one.plain
    return {shared.pages["compare"].result: compare_page.looked(shared, one, two, request, progress)}


OPEN = {"feature": to_feature, "search": to_search, **dict.fromkeys(("explore", "paint", "compare"), to_made)}
MAKE = {"explore": make_explore, "paint": make_paint, "compare": make_compare}
