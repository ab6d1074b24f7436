"""Paint: features as brushes, layers on the picture, before and after. Its events: `paint_events.py`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import gradio as gr

from unbox.errors import FieldError
from unbox.explorer import edit_controls, generation_controls
from unbox.explorer.artifact_figure import artifact_figure
from unbox.explorer.canvas import canvas_html, result_html
from unbox.explorer.canvas_state import CanvasState, MadeImage
from unbox.explorer.edit_controls import EditControls
from unbox.explorer.events import (
    DROP,
    LAYERS,
    PAINT,
    PALETTE,
    RERUN,
    SWATCHES,
    FieldValue,
    Updates,
    html_component,
)
from unbox.explorer.generation_controls import GenerationControls
from unbox.explorer.html import render
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.layers import layers_html
from unbox.explorer.limits import REPEATS
from unbox.explorer.palette import first_query, lists_of, swatches_html
from unbox.explorer.recorded_image import RecordedImage
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import InitialState, SharedComponents

TITLE = "Paint"
#: Ways to hand a recipe on, by their names.
COPIES: dict[str, Callable[[Recipe, ExplorerSession], str]] = {
    "JSON": lambda recipe, session: json.dumps(recipe.to_json(), indent=1, ensure_ascii=False),
    "Python": lambda recipe, session: session.without_brushes(recipe).to_python(
        session.folder, session.norms_of(recipe), session.opened_as(recipe.system)
    ),
    "command line": lambda recipe, session: session.without_brushes(recipe).to_command(
        session.folder, session.opened_as(recipe.system)
    ),
    "experiment": lambda recipe, session: session.without_brushes(recipe).to_experiment(
        session.folder, session.opened_as(recipe.system)
    ),
}

#: Steps up to which the features of a picture that is painted on are recorded, for the palette.
RECORDED_STEPS = 8


@dataclass(frozen=True)
class PaintPage:
    """The page's components, and what they show of a state."""

    controls: GenerationControls
    generate: gr.Button
    stop: gr.Button
    random_control: gr.Button
    draws: gr.Dropdown
    """How many random controls are drawn."""
    keep: gr.Button
    guard: gr.Checkbox
    canvas: gr.HTML
    edit: EditControls
    add: gr.Button
    undo: gr.Button
    redo: gr.Button
    palette: gr.HTML
    swatches: gr.HTML
    layers: gr.HTML
    result: gr.HTML
    film_strip: gr.HTML
    copy_format: gr.Radio
    live: gr.Checkbox
    frame: gr.HTML
    frame_request: gr.Textbox
    """Hidden; what is written here asks for a live frame."""
    stale: gr.HTML
    copied: gr.Code
    drop: gr.HTML
    state: gr.State
    """What is wanted: a CanvasState. Runs never write it."""
    made: gr.State
    """What is shown: a MadeImage, or None. Runs, and what opens a picture, alone write it."""
    query: gr.State
    """What the palette shows: a PaletteQuery."""
    film: gr.State
    """The last pictures made: a tuple of Frame. Runs alone write it."""

    @property
    def inputs(self) -> list[gr.components.Component]:
        """What is wanted, what is shown, the format of the copy: what events of the list are given first."""
        return [self.state, self.made, self.copy_format]

    @property
    def outputs(self) -> list[gr.components.Component]:
        """The components of `show`."""
        return [self.state, self.canvas, self.layers, self.copied]

    @property
    def settings(self) -> list[gr.Checkbox | gr.Dropdown | gr.Textbox | gr.Number]:
        """The components that say what picture is made, but for the list."""
        return [self.guard, *self.controls.components]

    @property
    def opened(self) -> list[gr.components.Component]:
        """The components of `open_image` and `open_recipe`, but for the tabs."""
        return [*self.outputs, self.made, self.result, *self.settings, *self.edit.brush, self.swatches]

    def wanted(self, state: CanvasState, guard: bool, values: Sequence[FieldValue]) -> Recipe:
        """The recipe that the list and the controls say. Raises UnboxError for values that cannot be."""
        edited = state.recipe
        return replace(self.controls.recipe(values), edits=edited.edits, off=edited.off, guard=guard,
                       photo=edited.photo)  # fmt: skip

    def show(
        self, session: ExplorerSession, state: CanvasState, made: MadeImage | None, copy_format: str
    ) -> Updates:
        """Everything that follows from what is wanted and what is shown, but for the result."""
        return {
            self.state: state,
            self.canvas: canvas_html(state, made),
            self.layers: layers_html(session, state),
            self.copied: copied(session, state, made, copy_format),
        }

    def show_made(self, made: MadeImage | None) -> Updates:
        """The result of a run."""
        return {self.made: made, self.result: result_html(made)}

    def open_image(
        self, shared: SharedComponents, recorded: RecordedImage, feature: str, copy_format: str
    ) -> Updates:
        """The page with a picture that was made elsewhere, and a feature to paint with."""
        made = MadeImage(recorded.recipe.plain, recorded.image)
        updates = self._open(shared, CanvasState(made.recipe), made, copy_format)
        return updates | (self.edit.taken(shared.session, feature) if feature else {})

    def open_recipe(self, shared: SharedComponents, recipe: Recipe, copy_format: str) -> Updates:
        """The page with a recipe from a link or a PNG, whose picture is made next."""
        note = render("note.html", note="Restored; the picture is being made again.")
        state = CanvasState(shared.session.known(recipe))
        return self._open(shared, state, None, copy_format) | {self.result: note}

    def _open(
        self, shared: SharedComponents, state: CanvasState, made: MadeImage | None, copy_format: str
    ) -> Updates:
        swatches = swatches_html(shared.session, state.recipe, first_query(shared.session))
        return {
            self.swatches: swatches,
            **self.show(shared.session, state, made, copy_format),
            **self.show_made(made),
            **self.controls.updates(state.recipe),
            self.guard: state.recipe.guard,
            shared.tabs: gr.Tabs(selected="paint"),
        }


def draw(session: ExplorerSession, initial: InitialState) -> PaintPage:
    """The page's components; call inside its tab."""
    state, made = CanvasState(initial.recipe), None
    if initial.recorded is not None:
        made = MadeImage(initial.recipe, initial.recorded.image)
    controls = generation_controls.draw(session, initial.recipe, "paint")
    with gr.Row(elem_classes="ub-toolbar"):
        generate = gr.Button("Generate", variant="primary", elem_id="paint-make", scale=0, min_width=120)
        stop = gr.Button("Stop", scale=0, min_width=70)
        control = gr.Button("Random features instead", elem_id="paint-control", scale=0, min_width=200)
        draws = gr.Dropdown(list(REPEATS), value="1", label="Draws", min_width=80, scale=0,
                            elem_id="paint-draws")  # fmt: skip
        keep = gr.Button("Keep for Compare", elem_id="paint-keep", scale=0, min_width=160)
        guard = gr.Checkbox(False, label="Guard: keep updates within their usual norms", min_width=320,
                            container=False, elem_classes="ub-check", elem_id="paint-guard")  # fmt: skip
        live = gr.Checkbox(False, label="Live: a frame for each change", min_width=220, container=False,
                           elem_classes="ub-check", elem_id="paint-live")  # fmt: skip
    with gr.Row(elem_classes="ub-page"):
        with gr.Column(scale=3, min_width=280):
            head = render("palette.html", lists=lists_of(session))
            palette = html_component(head, PALETTE, elem_id="paint-palette")
            shown = swatches_html(session, state.recipe, first_query(session))
            swatches = html_component(shown, SWATCHES, elem_id="paint-swatches")
        with gr.Column(scale=5, min_width=320):
            canvas = html_component(canvas_html(state, made), PAINT, elem_id="paint-canvas")
            layers = html_component(layers_html(session, state), LAYERS, elem_id="paint-layers")
            edit = edit_controls.draw(session, initial.feature)
            with gr.Row(elem_classes="ub-toolbar"):
                add = gr.Button("Add everywhere", variant="secondary", elem_id="paint-add", min_width=110)
                undo = gr.Button("Undo", elem_id="paint-undo", min_width=60)
                redo = gr.Button("Redo", elem_id="paint-redo", min_width=60)
        with gr.Column(scale=5, min_width=320):
            frame = html_component("", elem_id="paint-frame")
            frame_request = gr.Textbox(visible="hidden", elem_id="paint-frame-request")
            stale = html_component("", RERUN, elem_id="paint-stale")
            result = html_component(result_html(made), elem_id="paint-result")
            film_strip = html_component("", elem_id="paint-film")
            with gr.Accordion("Copy this picture as \u2026", open=False, elem_id="paint-copying"):
                copy_format = gr.Radio(list(COPIES), value="JSON", show_label=False, container=False,
                                       min_width=200)  # fmt: skip
                code = gr.Code(copied(session, state, made, "JSON"), show_label=False, language=None, lines=4,
                               max_lines=14, interactive=False, elem_id="paint-copied")  # fmt: skip
            drop = html_component(render("drop_zone.html"), DROP, elem_id="paint-drop")
    kept = (gr.State(each, time_to_live=3600) for each in (state, made, first_query(session), ()))
    return PaintPage(
        controls, generate, stop, control, draws, keep, guard, canvas, edit, add, undo, redo, palette,
        swatches, layers, result, film_strip, copy_format, live, frame, frame_request, stale, code, drop,
        *kept,
    )  # fmt: skip


def generate(session: ExplorerSession, recipe: Recipe, draws: range = range(0)) -> MadeImage:
    """The picture without and with its edits. `draws`: with random features of equal norm instead, a picture
    for each of these seeds; none: the edits themselves."""
    controls = [session.random_control(recipe, draw) for draw in draws]
    if recipe.steps <= RECORDED_STEPS:
        session.record(recipe.plain)  # the palette shows its features
    before, own = session.generate([recipe.plain, recipe])
    others = [session.generate([each])[0] for each in controls]
    edited, after = (controls[0], others[0]) if controls else (recipe, own)
    fidelity, artifact = session.fidelity(recipe), artifact_figure(session, after)
    if not controls:
        return MadeImage(edited, before, after, fidelity, artifact=artifact)
    pictures = tuple(zip(controls, others, strict=True))
    return MadeImage(edited, before, after, fidelity, recipe, own, pictures, artifact)


def copied(session: ExplorerSession, state: CanvasState, made: MadeImage | None, copy_format: str) -> str:
    """The recipe of the picture shown, or of what is wanted where there is none, in one of `COPIES`."""
    if copy_format not in COPIES:
        raise FieldError("", "copy as", copy_format, f"should be one of {', '.join(COPIES)}")
    return COPIES[copy_format](state.recipe if made is None else made.recipe, session)
