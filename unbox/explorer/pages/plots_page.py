"""Plots: pictures for each pair of values, run in the device's queue."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import gradio as gr
from gradio.blocks import Block

from unbox.errors import UnboxError
from unbox.explorer import generation_controls, limits
from unbox.explorer.canvas_state import CanvasState
from unbox.explorer.events import FieldValue, Updates, event_value, html_component, listen
from unbox.explorer.generation_controls import GenerationControls
from unbox.explorer.html import render
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.pages.paint_page import PaintPage, generate
from unbox.explorer.picture_grid import AXES, EXAMPLES, GridPlan, cells, grid_html
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import SharedComponents, link
from unbox.validation import checked, parsed

TITLE = "Plots"
#: Seconds for which the recipes of a plot's pictures are kept.
KEPT = 3600
NOTE = (
    "A picture for each pair of values. Strength, block and step are of the layers of Paint; feature adds "
    "one feature in their place. Values stand with commas; seeds and steps also as 0-3."
)


@dataclass(frozen=True)
class PlotsPage:
    """The page's components."""

    controls: GenerationControls
    x: gr.Dropdown
    x_values: gr.Textbox
    y: gr.Dropdown
    y_values: gr.Textbox
    make: gr.Button
    stop: gr.Button
    result: gr.HTML
    recipes: gr.State
    """Those of the pictures shown, in their order."""

    @property
    def plan(self) -> list[gr.components.Component]:
        """The components of a GridPlan's fields."""
        return [self.x, self.x_values, self.y, self.y_values]


def draw(session: ExplorerSession, first: Recipe) -> PlotsPage:
    """The page's components; call inside its tab."""
    controls = generation_controls.draw(session, first, "plots")
    with gr.Row(elem_classes="ub-toolbar"):
        x, x_values = _axis_fields("X", "strength")
        y, y_values = _axis_fields("Y", "seed")
        make = gr.Button("Run", variant="primary", elem_id="plots-make", scale=0, min_width=90)
        stop = gr.Button("Stop", scale=0, min_width=70)
    for axis, values in ((x, x_values), (y, y_values)):
        listen(axis.input, _example, [axis], [values], show_progress="hidden")
    result = html_component(render("note.html", note=NOTE), elem_id="plots-result")
    recipes = gr.State((), time_to_live=KEPT)
    return PlotsPage(controls, x, x_values, y, y_values, make, stop, result, recipes)


def _axis_fields(name: str, axis: str) -> tuple[gr.Dropdown, gr.Textbox]:
    key = f"plots-{name.lower()}"
    return (
        gr.Dropdown(list(AXES), value=axis, label=name, min_width=110, scale=1, elem_id=key),
        gr.Textbox(EXAMPLES[axis], label=f"Values of {name}", max_length=300, min_width=180, scale=3,
                   elem_id=f"{key}-values"),
    )  # fmt: skip


def _example(axis: str) -> str:
    return EXAMPLES[checked(limits.Line, "axis", axis)] if axis in EXAMPLES else ""


def recipe_at(recipes: Sequence[Recipe], place: int | None) -> Recipe:
    """The recipe of a picture of the plot that is shown. Raises UnboxError for a plot whose recipes are not
    kept any more."""
    if place is None or not 0 <= place < len(recipes):
        raise UnboxError(
            f"what this plot's pictures are made of was kept for {KEPT // 60} minutes and is gone: press "
            "Run, and its pictures open in Paint again"
        )
    return recipes[place]


def outputs(shared: SharedComponents, page: PlotsPage) -> list[Block]:
    """The components of `open_plot`."""
    return [shared.tabs, *page.plan, page.result]


def open_plot(shared: SharedComponents, page: PlotsPage, given: dict[str, str]) -> Updates:
    """The page with a link's axes; Run draws them with the layers of Paint."""
    plan = parsed(GridPlan, given, "link")
    shown = dict(zip(page.plan, astuple(plan), strict=True))
    return shown | {shared.tabs: gr.Tabs(selected="plots"), page.result: render("note.html", note=NOTE)}


def wire(shared: SharedComponents, page: PlotsPage, paint: PaintPage) -> None:
    """Run and stop; a picture opens in Paint."""
    session = shared.session

    def run(state: CanvasState, *values: FieldValue) -> Updates:
        given = dict(zip(GridPlan.__dataclass_fields__, values[: len(page.plan)], strict=True))
        plan = parsed(GridPlan, given, "plot")
        recipe = page.controls.recipe(values[len(page.plan) :])
        layers = state.recipe
        base = Recipe(**{**vars(recipe), "edits": layers.edits, "off": layers.off})

        progress = gr.Progress()

        def told(done: int, count: int) -> None:
            progress((done, count), desc="pictures", unit="pictures")

        found = list(cells(session, base, plan, told))
        query = link("plots", **{name: str(value) for name, value in vars(plan).items()})
        recipes = tuple(cell.recipe for cell in found)
        return {page.result: grid_html(plan, found), page.recipes: recipes, shared.link: query}

    inputs = [paint.state, *page.plan, *page.controls.components]
    made = listen(page.make.click, run, inputs, [page.result, page.recipes, shared.link], device=True,
                  progress_on=page.result)  # fmt: skip
    shared.wire_runs([made], page.stop)

    def into_paint(event: gr.EventData, recipes: tuple[Recipe, ...], copy_format: str) -> Updates:
        recipe = session.known(recipe_at(recipes, event_value(event, "cell", int)))
        opened = paint.open_recipe(shared, recipe, copy_format)
        if not session.has_pictures([recipe.plain, recipe]):
            return opened
        shown = generate(session, recipe)
        return opened | paint.show(session, CanvasState(recipe), shown, copy_format) | paint.show_made(shown)

    listen(page.result.click, into_paint, [page.recipes, paint.copy_format], [*paint.opened, shared.tabs],
           show_progress="hidden", in_order=True)  # fmt: skip
