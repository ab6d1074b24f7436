"""Paint: masks on the picture, edits in a list, before and after."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import gradio as gr

from unbox.errors import FieldError, UnboxError
from unbox.explorer import edit_controls, generation_controls
from unbox.explorer.canvas import canvas_html, edits_html, result_html
from unbox.explorer.canvas_state import CanvasState, mask_from_canvas
from unbox.explorer.edit_controls import EVERYWHERE, PAINTED, EditControls, edit_of
from unbox.explorer.events import DROP, PAINT, FieldValue, Updates, event_value, html_component, listen
from unbox.explorer.generation_controls import GenerationControls
from unbox.explorer.html import render
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.limits import Line
from unbox.explorer.pages.explore_page import ExplorePage
from unbox.explorer.pages.feature_page import FeaturePage
from unbox.explorer.recorded_image import RecordedImage
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import InitialState, SharedComponents, link
from unbox.validation import checked

TITLE = "Paint"
#: Ways to hand a recipe on, by their names.
COPIES: dict[str, Callable[[Recipe, ExplorerSession], str]] = {
    "JSON": lambda recipe, session: json.dumps(recipe.to_json(), indent=1, ensure_ascii=False),
    "Python": lambda recipe, session: recipe.to_python(
        session.folder, session.norms_of(recipe), session.opened_as(recipe.system)
    ),
    "command line": lambda recipe, session: recipe.to_command(
        session.folder, session.opened_as(recipe.system)
    ),
    "experiment": lambda recipe, session: recipe.to_experiment(
        session.folder, session.opened_as(recipe.system)
    ),
}

#: What a button of the list does with the edit at an index.
ACTS: dict[str, Callable[[CanvasState, int], CanvasState]] = {
    "choose": CanvasState.choose,
    "toggle": CanvasState.toggle,
    "remove": CanvasState.remove,
    "up": lambda state, index: state.move(index, -1),
    "down": lambda state, index: state.move(index, 1),
}


@dataclass(frozen=True)
class PaintPage:
    """The page's components, and what they show of a state."""

    controls: GenerationControls
    generate: gr.Button
    stop: gr.Button
    random_control: gr.Button
    keep: gr.Button
    guard: gr.Checkbox
    canvas: gr.HTML
    edit: EditControls
    add: gr.Button
    change: gr.Button
    undo: gr.Button
    redo: gr.Button
    edits: gr.HTML
    result: gr.HTML
    copy_format: gr.Radio
    copied: gr.Code
    drop: gr.HTML
    state: gr.State

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The state and the format of the copy: what every event of the page is given first."""
        return [self.state, self.copy_format]

    @property
    def outputs(self) -> list[gr.components.Component]:
        """The components of `show`."""
        return [self.state, self.canvas, self.edits, self.copied]

    @property
    def opened(self) -> list[gr.components.Component]:
        """The components of `open_image` and `open_recipe`, but for the tabs."""
        return [*self.outputs, self.result, *self.controls.components, self.edit.feature, self.guard]

    def show(self, session: ExplorerSession, state: CanvasState, copy_format: str) -> Updates:
        """Everything that follows from the state, but for the result."""
        return {
            self.state: state,
            self.canvas: canvas_html(state),
            self.edits: edits_html(state),
            self.copied: copied(session, state, copy_format),
        }

    def show_run(self, session: ExplorerSession, state: CanvasState, copy_format: str) -> Updates:
        """As `show`, and the result."""
        return self.show(session, state, copy_format) | {self.result: result_html(state)}

    def open_image(
        self, shared: SharedComponents, recorded: RecordedImage, feature: str, copy_format: str
    ) -> Updates:
        """The page with a picture that was made elsewhere, and a feature to paint with."""
        recipe = recorded.recipe.plain
        state = CanvasState(recipe, before=recorded.image, after_recipe=recipe)
        updates = self._open(shared, state, copy_format) | {self.result: result_html(state)}
        return updates | ({self.edit.feature: feature} if feature else {})

    def open_recipe(self, shared: SharedComponents, recipe: Recipe, copy_format: str) -> Updates:
        """The page with a recipe from a link or a PNG, not yet made again."""
        note = render("note.html", note="Restored. Generate makes the picture again.")
        state = CanvasState(shared.session.known(recipe))
        return self._open(shared, state, copy_format) | {self.result: note}

    def _open(self, shared: SharedComponents, state: CanvasState, copy_format: str) -> Updates:
        return {
            **self.show(shared.session, state, copy_format),
            **self.controls.updates(state.recipe),
            self.guard: state.recipe.guard,
            shared.tabs: gr.Tabs(selected="paint"),
        }


def draw(session: ExplorerSession, initial: InitialState) -> PaintPage:
    """The page's components; call inside its tab."""
    state = CanvasState(initial.recipe)
    if initial.recorded is not None:
        state = replace(state, before=initial.recorded.image, after_recipe=initial.recipe)
    controls = generation_controls.draw(session, initial.recipe, "paint")
    with gr.Row(elem_classes="ub-toolbar"):
        generate = gr.Button("Generate", variant="primary", elem_id="paint-make", scale=0, min_width=120)
        stop = gr.Button("Stop", scale=0, min_width=70)
        control = gr.Button("Random features instead", elem_id="paint-control", scale=0, min_width=200)
        keep = gr.Button("Keep for Compare", elem_id="paint-keep", scale=0, min_width=160)
        guard = gr.Checkbox(False, label="Guard: keep updates within their usual norms", min_width=320,
                            container=False, elem_classes="ub-check", elem_id="paint-guard")  # fmt: skip
    with gr.Row(elem_classes="ub-page"):
        with gr.Column(scale=4, min_width=320):
            canvas = html_component(canvas_html(state), PAINT, elem_id="paint-canvas")
        with gr.Column(scale=4, min_width=320):
            edit = edit_controls.draw(session, initial.feature)
            with gr.Row(elem_classes="ub-toolbar"):
                add = gr.Button("Add edit", variant="primary", elem_id="paint-add", min_width=80)
                change = gr.Button("Change chosen", elem_id="paint-put", min_width=110)
                undo = gr.Button("Undo", elem_id="paint-undo", min_width=60)
                redo = gr.Button("Redo", elem_id="paint-redo", min_width=60)
            edits = html_component(edits_html(state), elem_id="paint-edits")
        with gr.Column(scale=4, min_width=320):
            result = html_component(result_html(state), elem_id="paint-result")
            with gr.Accordion("Copy this picture as \u2026", open=False, elem_id="paint-copying"):
                copy_format = gr.Radio(list(COPIES), value="JSON", show_label=False, container=False,
                                       min_width=200)  # fmt: skip
                code = gr.Code(copied(session, state, "JSON"), show_label=False, language=None, lines=4,
                               max_lines=14, interactive=False, elem_id="paint-copied")  # fmt: skip
            drop = html_component(render("drop_zone.html"), DROP, elem_id="paint-drop")
    return PaintPage(
        controls, generate, stop, control, keep, guard, canvas, edit, add, change, undo, redo, edits, result,
        copy_format, code, drop, gr.State(state, time_to_live=3600),
    )  # fmt: skip


def wire(shared: SharedComponents, page: PaintPage, explore: ExplorePage, feature: FeaturePage) -> None:
    """The page's events, and those of other pages that open it."""
    _wire_runs(shared, page)
    _wire_list(shared.session, page)
    _wire_opening(shared, page, explore, feature)


def _wire_runs(shared: SharedComponents, page: PaintPage) -> None:
    """Generate, control, stop and copy."""
    session = shared.session
    inputs = [*page.inputs, page.guard, *page.controls.components]
    outputs = [*page.outputs, page.result, shared.link]

    def run(
        state: CanvasState, copy_format: str, guard: bool, *values: FieldValue, control: bool = False
    ) -> Updates:
        plain, edited = page.controls.recipe(values), state.recipe
        recipe = replace(plain, edits=edited.edits, off=edited.off, guard=guard)
        state = generate(session, state.changed(recipe, state.chosen), control=control)
        query = link("paint", r=recipe.to_link())
        return page.show_run(session, state, copy_format) | {shared.link: query}

    events = ((page.generate.click, run), (page.controls.prompt.submit, run),
              (page.random_control.click, partial(run, control=True)))  # fmt: skip
    shared.wire_runs([listen(event, fn, inputs, outputs, device=True) for event, fn in events], page.stop)
    listen(page.copy_format.input, partial(copied, session), page.inputs, [page.copied],
           show_progress="hidden")  # fmt: skip


def _wire_list(session: ExplorerSession, page: PaintPage) -> None:
    """The mask, the controls of an edit, and the list."""

    def brush(event: gr.EventData, state: CanvasState) -> Updates:
        mask = mask_from_canvas(*(event._data.get(name) for name in ("mask", "width", "height")))
        return {page.state: replace(state, mask=mask), page.edit.where: PAINTED if mask else EVERYWHERE}

    listen(page.canvas.input, brush, [page.state], [page.state, page.edit.where], show_progress="hidden")

    def put(
        act: Callable[..., CanvasState], state: CanvasState, copy_format: str, *values: FieldValue
    ) -> Updates:
        edit = [edit_of(session, state.mask, values)] if values else []
        return page.show(session, act(state, *edit), copy_format)

    fields = [*page.inputs, *page.edit.components]
    for button, act, inputs in (
        (page.add, CanvasState.add, fields), (page.change, CanvasState.replace_chosen, fields),
        (page.undo, CanvasState.undo, page.inputs), (page.redo, CanvasState.redo, page.inputs),
    ):  # fmt: skip
        listen(button.click, partial(put, act), inputs, page.outputs, show_progress="hidden")

    def press(event: gr.EventData, state: CanvasState, copy_format: str) -> Updates:
        name, index = event_value(event, "act", str), event_value(event, "place", int)
        if name not in ACTS or index is None:
            raise FieldError("list", "act", name, f"should be one of {', '.join(ACTS)}, at a place")
        state = ACTS[name](state, index)
        chosen = page.edit.updates(state.recipe.edits[index]) if name == "choose" else {}
        return page.show(session, state, copy_format) | chosen

    outputs = [*page.outputs, *page.edit.components]
    listen(page.edits.click, press, page.inputs, outputs, show_progress="hidden")


def _wire_opening(
    shared: SharedComponents, page: PaintPage, explore: ExplorePage, feature: FeaturePage
) -> None:
    """Pictures and features that come from other pages, and recipes from PNGs."""
    opened = [*page.opened, shared.tabs]

    def from_explore(recorded: RecordedImage | None, chosen: str, copy_format: str) -> Updates:
        if recorded is None:
            raise UnboxError("make a picture first")
        return page.open_image(shared, recorded, chosen, copy_format)

    def from_card(event: gr.EventData, recorded: RecordedImage | None, copy_format: str) -> Updates:
        name = event_value(event, "paint", str)
        return from_explore(recorded, name, copy_format) if name else gr.skip()

    def from_feature(name: str) -> Updates:
        shared.session.feature(name)
        return {shared.tabs: gr.Tabs(selected="paint"), page.edit.feature: checked(Line, "feature", name)}

    def from_png(event: gr.EventData, copy_format: str) -> Updates:
        text = event_value(event, "recipe", str)
        if text is None:
            raise UnboxError(event_value(event, "problem", str) or "this file holds no recipe")
        return page.open_recipe(shared, Recipe.from_text(text), copy_format)

    picture = [explore.recorded, explore.chosen, page.copy_format]
    listen(explore.paint.click, from_explore, picture, opened)
    listen(explore.card.click, from_card, [explore.recorded, page.copy_format], opened,
           show_progress="hidden")  # fmt: skip
    listen(feature.paint.click, from_feature, [feature.name], [shared.tabs, page.edit.feature],
           show_progress="hidden")  # fmt: skip
    listen(page.drop.input, from_png, [page.copy_format], opened)


def generate(session: ExplorerSession, state: CanvasState, *, control: bool = False) -> CanvasState:
    """The picture without and with its edits. `control`: with random features of equal norm instead."""
    recipe = session.random_control(state.recipe) if control else state.recipe
    before, after = session.generate([state.recipe.plain, recipe])
    return replace(state, before=before, after=after, after_recipe=recipe)


def copied(session: ExplorerSession, state: CanvasState, copy_format: str) -> str:
    """The recipe in one of `COPIES`."""
    if copy_format not in COPIES:
        raise FieldError("", "copy as", copy_format, f"should be one of {', '.join(COPIES)}")
    return COPIES[copy_format](state.recipe, session)
