"""Paint: masks on the picture, edits in a list, before and after."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import gradio as gr
from gradio.events import Dependency

from unbox.errors import FieldError, UnboxError
from unbox.explorer import edit_controls, generation_controls
from unbox.explorer.canvas import canvas_html, edits_html, result_html, stale_html
from unbox.explorer.canvas_state import CanvasState, MadeImage, mask_from_canvas
from unbox.explorer.edit_controls import EVERYWHERE, PAINTED, EditControls, edit_of
from unbox.explorer.events import DROP, PAINT, FieldValue, Updates, event_value, html_component, listen
from unbox.explorer.generation_controls import GenerationControls
from unbox.explorer.html import render
from unbox.explorer.image_recipe import Recipe, parse
from unbox.explorer.limits import Line
from unbox.explorer.pages.explore_page import ExplorePage
from unbox.explorer.pages.feature_page import FeaturePage
from unbox.explorer.recorded_image import RecordedImage
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import InitialState, SharedComponents, link
from unbox.mask import Mask
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
    stale: gr.HTML
    copied: gr.Code
    drop: gr.HTML
    state: gr.State
    """What is wanted: a CanvasState. Runs never write it."""
    made: gr.State
    """What is shown: a MadeImage, or None. Runs, and what opens a picture, alone write it."""

    @property
    def inputs(self) -> list[gr.components.Component]:
        """What is wanted, what is shown, the format of the copy: what events of the list are given first."""
        return [self.state, self.made, self.copy_format]

    @property
    def outputs(self) -> list[gr.components.Component]:
        """The components of `show`."""
        return [self.state, self.canvas, self.edits, self.copied]

    @property
    def settings(self) -> list[gr.Checkbox | gr.Dropdown | gr.Textbox | gr.Number]:
        """The components that say what picture is made, but for the list."""
        return [self.guard, *self.controls.components]

    @property
    def opened(self) -> list[gr.components.Component]:
        """The components of `open_image` and `open_recipe`, but for the tabs."""
        return [*self.outputs, self.made, self.result, *self.settings, self.edit.feature]

    def wanted(self, state: CanvasState, guard: bool, values: Sequence[FieldValue]) -> Recipe:
        """The recipe that the list and the controls say. Raises UnboxError for values that cannot be."""
        edited = state.recipe
        return replace(self.controls.recipe(values), edits=edited.edits, off=edited.off, guard=guard)

    def show(
        self, session: ExplorerSession, state: CanvasState, made: MadeImage | None, copy_format: str
    ) -> Updates:
        """Everything that follows from what is wanted and what is shown, but for the result."""
        return {
            self.state: state,
            self.canvas: canvas_html(state, made),
            self.edits: edits_html(state),
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
        return updates | ({self.edit.feature: feature} if feature else {})

    def open_recipe(self, shared: SharedComponents, recipe: Recipe, copy_format: str) -> Updates:
        """The page with a recipe from a link or a PNG, whose picture is made next."""
        note = render("note.html", note="Restored; the picture is being made again.")
        state = CanvasState(shared.session.known(recipe))
        return self._open(shared, state, None, copy_format) | {self.result: note}

    def _open(
        self, shared: SharedComponents, state: CanvasState, made: MadeImage | None, copy_format: str
    ) -> Updates:
        return {
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
        keep = gr.Button("Keep for Compare", elem_id="paint-keep", scale=0, min_width=160)
        guard = gr.Checkbox(False, label="Guard: keep updates within their usual norms", min_width=320,
                            container=False, elem_classes="ub-check", elem_id="paint-guard")  # fmt: skip
    with gr.Row(elem_classes="ub-page"):
        with gr.Column(scale=4, min_width=320):
            canvas = html_component(canvas_html(state, made), PAINT, elem_id="paint-canvas")
        with gr.Column(scale=4, min_width=320):
            edit = edit_controls.draw(session, initial.feature)
            with gr.Row(elem_classes="ub-toolbar"):
                add = gr.Button("Add edit", variant="primary", elem_id="paint-add", min_width=80)
                change = gr.Button("Change chosen", elem_id="paint-put", min_width=110)
                undo = gr.Button("Undo", elem_id="paint-undo", min_width=60)
                redo = gr.Button("Redo", elem_id="paint-redo", min_width=60)
            edits = html_component(edits_html(state), elem_id="paint-edits")
        with gr.Column(scale=4, min_width=320):
            stale = html_component("", elem_id="paint-stale")
            result = html_component(result_html(made), elem_id="paint-result")
            with gr.Accordion("Copy this picture as \u2026", open=False, elem_id="paint-copying"):
                copy_format = gr.Radio(list(COPIES), value="JSON", show_label=False, container=False,
                                       min_width=200)  # fmt: skip
                code = gr.Code(copied(session, state, made, "JSON"), show_label=False, language=None, lines=4,
                               max_lines=14, interactive=False, elem_id="paint-copied")  # fmt: skip
            drop = html_component(render("drop_zone.html"), DROP, elem_id="paint-drop")
    return PaintPage(
        controls, generate, stop, control, keep, guard, canvas, edit, add, change, undo, redo, edits, result,
        copy_format, stale, code, drop, gr.State(state, time_to_live=3600), gr.State(made, time_to_live=3600),
    )  # fmt: skip


def wire(shared: SharedComponents, page: PaintPage, explore: ExplorePage, feature: FeaturePage) -> None:
    """The page's events, and those of other pages that open it."""
    session = shared.session
    changes = [*_wire_list(session, page), *_wire_opening(shared, page, explore, feature)]
    changes += _wire_runs(shared, page)

    def mark(state: CanvasState, made: MadeImage | None, guard: bool, *values: FieldValue) -> str:
        try:
            return stale_html(made, page.wanted(state, guard, values))
        except UnboxError:  # what the controls say cannot be made: Generate will say why
            return stale_html(made, None)

    events: list[Callable[..., Dependency]] = [each.then for each in changes]
    events += [each.input for each in page.settings]
    shown = [page.state, page.made, *page.settings]
    for event in events:
        listen(event, mark, shown, [page.stale], show_progress="hidden")
    listen(page.copy_format.input, partial(copied, session), page.inputs, [page.copied],
           show_progress="hidden")  # fmt: skip


def _wire_runs(shared: SharedComponents, page: PaintPage) -> list[Dependency]:
    """Generate, control, a PNG that is dropped, and stop. A run answers with what was made; the list as it is
    when the run has ended is put beside it."""
    session = shared.session

    def run(state: CanvasState, guard: bool, *values: FieldValue, control: bool = False) -> Updates:
        made = generate(session, page.wanted(state, guard, values), control=control)
        return page.show_made(made) | {shared.link: link("paint", r=made.recipe.to_link())}

    def after_run(state: CanvasState, made: MadeImage | None, copy_format: str) -> Updates:
        state = state if made is None else state.with_settings(made.asked)
        return page.show(session, state, made, copy_format)

    def from_png(event: gr.EventData, copy_format: str) -> Updates:
        text = event_value(event, "recipe", str)
        if text is None:
            raise UnboxError(event_value(event, "problem", str) or "this file holds no recipe")
        return page.open_recipe(shared, session.completed(parse(text)), copy_format)

    dropped = listen(page.drop.input, from_png, [page.copy_format], [*page.opened, shared.tabs])
    events = ((page.generate.click, False), (page.controls.prompt.submit, False), (dropped.success, False),
              (page.random_control.click, True))  # fmt: skip
    runs = [
        listen(event, partial(run, control=control), [page.state, *page.settings],
               [page.made, page.result, shared.link], device=True, progress_on=page.result)
        for event, control in events
    ]  # fmt: skip
    shared.wire_runs(runs, page.stop)
    return [
        listen(each.success, after_run, page.inputs, page.outputs, show_progress="hidden") for each in runs
    ]


def _wire_list(session: ExplorerSession, page: PaintPage) -> list[Dependency]:
    """The mask, the controls of an edit, and the list."""

    def where(mask: Mask | None) -> Updates:
        return {page.edit.where: PAINTED if mask else EVERYWHERE}

    def brush(event: gr.EventData, state: CanvasState) -> Updates:
        mask = mask_from_canvas(*(event._data.get(name) for name in ("mask", "width", "height")))
        return {page.state: state.painted(mask), **where(mask)}

    def put(
        act: Callable[..., CanvasState], state: CanvasState, made: MadeImage | None, copy_format: str,
        *values: FieldValue,
    ) -> Updates:  # fmt: skip
        edit = [edit_of(session, state.mask, values)] if values else []
        return page.show(session, act(state, *edit), made, copy_format)

    def step(
        act: Callable[[CanvasState], CanvasState],
        state: CanvasState,
        made: MadeImage | None,
        copy_format: str,
    ) -> Updates:
        other = act(state)
        return page.show(session, other, made, copy_format) | (
            where(other.mask) if other.mask != state.mask else {}
        )

    def press(event: gr.EventData, state: CanvasState, made: MadeImage | None, copy_format: str) -> Updates:
        name, index = event_value(event, "act", str), event_value(event, "place", int)
        if name not in ACTS or index is None:
            raise FieldError("list", "act", name, f"should be one of {', '.join(ACTS)}, at a place")
        state = ACTS[name](state, index)
        chosen = page.edit.updates(state.recipe.edits[index]) if name == "choose" else {}
        return page.show(session, state, made, copy_format) | chosen

    fields, outputs = [*page.inputs, *page.edit.components], [*page.outputs, *page.edit.components]
    events = (
        (page.add.click, partial(put, CanvasState.add), fields, page.outputs),
        (page.change.click, partial(put, CanvasState.replace_chosen), fields, page.outputs),
        (page.undo.click, partial(step, CanvasState.undo), page.inputs, outputs),
        (page.redo.click, partial(step, CanvasState.redo), page.inputs, outputs),
        (page.edits.click, press, page.inputs, outputs),
    )
    listen(page.canvas.input, brush, [page.state], [page.state, page.edit.where], show_progress="hidden")
    return [listen(*event, show_progress="hidden") for event in events]


def _wire_opening(
    shared: SharedComponents, page: PaintPage, explore: ExplorePage, feature: FeaturePage
) -> list[Dependency]:
    """Pictures and features that come from other pages."""
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

    picture = [explore.recorded, explore.chosen, page.copy_format]
    listen(feature.paint.click, from_feature, [feature.name], [shared.tabs, page.edit.feature],
           show_progress="hidden")  # fmt: skip
    return [
        listen(explore.paint.click, from_explore, picture, opened),
        listen(explore.card.click, from_card, [explore.recorded, page.copy_format], opened,
               show_progress="hidden"),
    ]  # fmt: skip


def generate(session: ExplorerSession, recipe: Recipe, *, control: bool = False) -> MadeImage:
    """The picture without and with its edits. `control`: with random features of equal norm instead."""
    edited = session.random_control(recipe) if control else recipe
    before, after = session.generate([recipe.plain, edited])
    return MadeImage(edited, before, after, wanted=recipe if control else None)


def copied(session: ExplorerSession, state: CanvasState, made: MadeImage | None, copy_format: str) -> str:
    """The recipe of the picture shown, or of what is wanted where there is none, in one of `COPIES`."""
    if copy_format not in COPIES:
        raise FieldError("", "copy as", copy_format, f"should be one of {', '.join(COPIES)}")
    return COPIES[copy_format](state.recipe if made is None else made.recipe, session)
