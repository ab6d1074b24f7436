"""Permanent links: what a query string opens. `?view=feature&f=up.0.1/17`, `?view=explore&r=RECIPE`, ..."""

from typing import Any

import gradio as gr

from unbox.explorer import controls
from unbox.explorer.pages import compare, explore, feature, paint, search
from unbox.explorer.parts import Shell, select
from unbox.explorer.recipe import Recipe
from unbox.explorer.shell import on
from unbox.words import UnboxError

#: Longest value of a query string that is looked at.
LONGEST = 60_000


def query(request: gr.Request, name: str) -> str:
    """A value of the page's query string. Raises UnboxError for one that is too long."""
    value = str(request.query_params.get(name, ""))
    if len(value) > LONGEST:
        raise UnboxError("this link is too long")
    return value


def recipe_in(shell: Shell, request: gr.Request) -> Recipe:
    """The recipe of a link, of a system that is here."""
    recipe = Recipe.from_link(query(request, "r"))
    if recipe.system not in shell.lab.systems:
        raise UnboxError(f"this link is to a picture of {recipe.system}; "
                         f"here there are {', '.join(shell.lab.systems)}")  # fmt: skip
    return recipe


def wire(app: Any, shell: Shell) -> None:
    """Open what the link says when the page is loaded."""
    pages = shell.pages
    here = {
        "explore": (
            to_explore,
            [*pages["explore"].controls.components, shell.tabs, *explore.outputs(shell)],
            True,
        ),
        "feature": (to_feature, feature.outputs(shell), False),
        "search": (to_search, [shell.tabs, pages["search"].words, pages["search"].results], False),
        "paint": (to_paint, paint.arrivals(shell), True),
        "compare": (
            to_compare,
            [
                shell.tabs,
                *pages["compare"].controls.components,
                pages["compare"].other,
                pages["compare"].result,
            ],
            True,
        ),
    }
    for name, (open_page, outputs, device) in here.items():

        def arrive(
            request: gr.Request, name: str = name, open_page: Any = open_page, count: int = len(outputs)
        ) -> tuple:
            if query(request, "view") != name:
                return (gr.skip(),) * count
            return open_page(shell, request) or (gr.skip(),) * count

        on(app.load, arrive, None, outputs, device=device, show_progress="hidden")


def to_explore(shell: Shell, request: gr.Request) -> tuple | None:
    """Explore with a recipe made."""
    if not query(request, "r"):
        return None
    recipe = recipe_in(shell, request)
    return *controls.values_of(recipe), select("explore"), *explore.look(shell, recipe, request)


def to_feature(shell: Shell, request: gr.Request) -> tuple | None:
    """A feature's page."""
    name = query(request, "f")
    return feature.opened(shell.lab, name) if name else None


def to_search(shell: Shell, request: gr.Request) -> tuple:
    """Search with its words."""
    words = query(request, "q")
    return select("search"), words, search.find(shell.lab, words)


def to_paint(shell: Shell, request: gr.Request) -> tuple | None:
    """Paint with a recipe, made."""
    if not query(request, "r"):
        return None
    return paint.arrive(shell, recipe_in(shell, request), request)


def to_compare(shell: Shell, request: gr.Request) -> tuple | None:
    """Compare with both pictures made; a link holds no painted edits."""
    if not query(request, "r"):
        return None
    recipe, other = recipe_in(shell, request), query(request, "other")
    with shell.stops.running(request) as stop:
        one = shell.lab.look(recipe, stop)
        two = shell.lab.look(compare.against(shell.lab, recipe.plain, other, recipe), stop)
    return select("compare"), *controls.values_of(recipe), other, compare.compared(shell.lab, one, two)
