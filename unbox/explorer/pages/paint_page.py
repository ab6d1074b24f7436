"""Paint: masks on the picture, edits in a list, before and after."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from unbox.edit import BRANCHES, UNITS, Edit
from unbox.errors import UnboxError
from unbox.explorer import generation_controls, limits
from unbox.explorer.canvas import DROP_ZONE, EMPTY, canvas_html, edits_html, result_html
from unbox.explorer.canvas_state import Sheet, painted
from unbox.explorer.events import DROP, PAINT, event_value, html_component, listen
from unbox.explorer.generation_controls import Controls
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.session import ExplorerSession, RecordedImage
from unbox.explorer.shared_components import InitialState, SharedComponents, link, progress_callback, select

TITLE = "Paint"
OPS = ("add", "scale", "set", "ablate", "replace")
ALL_STEPS = "all"
EVERYWHERE, PAINTED, OWN = "everywhere", "painted mask", "where it fires"
#: Ways to hand a recipe on, by their names.
COPIES: dict[str, Callable[[Recipe, ExplorerSession], str]] = {
    "JSON": lambda recipe, session: json.dumps(recipe.to_json(), indent=1, ensure_ascii=False),
    "Python": lambda recipe, session: recipe.to_python(session.folder, session.norms_of(recipe)),
    "command line": lambda recipe, session: recipe.to_command(session.folder),
    "experiment": lambda recipe, session: recipe.to_experiment(session.folder),
}


@dataclass(frozen=True)
class Parts:
    """The page's components."""

    controls: Controls
    make: Any
    stop: Any
    control: Any
    keep: Any
    guard: Any
    canvas: Any
    feature: Any
    op: Any
    strength: Any
    unit: Any
    steps: Any
    branch: Any
    where: Any
    add: Any
    put: Any
    undo: Any
    redo: Any
    edits: Any
    result: Any
    copy: Any
    copied: Any
    drop: Any
    sheet: Any


def draw(session: ExplorerSession, initial: InitialState) -> Parts:
    """The page's components; call inside its tab."""
    start = Sheet(initial.recipe)
    if initial.recorded is not None:
        start = replace(start, before=initial.recorded.image, made=initial.recipe)
    own = generation_controls.draw(session, initial.recipe, "paint")
    with gr.Row(elem_classes="ub-toolbar"):
        make = gr.Button("Generate", variant="primary", elem_id="paint-make", scale=0, min_width=120)
        stop = gr.Button("Stop", scale=0, min_width=70)
        control = gr.Button("Random features instead", elem_id="paint-control", scale=0, min_width=200)
        keep = gr.Button("Keep for Compare", elem_id="paint-keep", scale=0, min_width=160)
        guard = gr.Checkbox(False, label="Guard: keep updates within their usual norms", min_width=320,
                            container=False, elem_classes="ub-check", elem_id="paint-guard")  # fmt: skip
    with gr.Row(elem_classes="ub-page"):
        with gr.Column(scale=4, min_width=320):
            canvas = html_component(canvas_html(start), PAINT, elem_id="paint-canvas")
        with gr.Column(scale=4, min_width=320):
            fields = _draw_edit(session, initial.feature)
            edits = html_component(edits_html(start), elem_id="paint-edits")
        with gr.Column(scale=4, min_width=320):
            result = html_component(EMPTY, elem_id="paint-result")
            with gr.Accordion("Copy this picture as \u2026", open=False, elem_id="paint-copying"):
                copy = gr.Radio(list(COPIES), value="JSON", show_label=False, container=False, min_width=200)
                copied = gr.Code(
                    COPIES["JSON"](start.recipe, session),
                    show_label=False,
                    language=None,
                    lines=4,
                    max_lines=14,
                    interactive=False,
                    elem_id="paint-copied",
                )
            drop = html_component(DROP_ZONE, DROP, elem_id="paint-drop")
    return Parts(
        controls=own, make=make, stop=stop, control=control, keep=keep, guard=guard, canvas=canvas,
        edits=edits, result=result, copy=copy, copied=copied, drop=drop,
        sheet=gr.State(start, time_to_live=3600), **fields,
    )  # fmt: skip


def _draw_edit(session: ExplorerSession, feature: str) -> dict[str, Any]:
    """The fields of an edit and the buttons of the list, by their names in `Parts`."""
    with gr.Group():
        with gr.Row():
            name = gr.Textbox(feature, label="Feature", placeholder=f"{next(iter(session.saes), 'up.0.1')}/0",
                              max_length=200, elem_id="paint-feature", min_width=130)  # fmt: skip
            op = gr.Dropdown(list(OPS), value="add", label="Op", min_width=90)
        with gr.Row():
            strength = gr.Number(3.0, label="Strength", minimum=-limits.STRENGTH, maximum=limits.STRENGTH,
                                 elem_id="paint-strength", min_width=80)  # fmt: skip
            unit = gr.Dropdown(list(UNITS), value="deviation", label="Unit", min_width=100)
        where = gr.Radio([EVERYWHERE, PAINTED, OWN], value=EVERYWHERE, label="Where", elem_id="paint-where")
        with gr.Row():
            steps = gr.Textbox(ALL_STEPS, label="Steps", max_length=9, min_width=80, elem_id="paint-steps",
                               placeholder="all, 0 or 0-2")  # fmt: skip
            branch = gr.Dropdown(list(BRANCHES), value="both", label="Branch", min_width=90)
    with gr.Row(elem_classes="ub-toolbar"):
        add = gr.Button("Add edit", variant="primary", elem_id="paint-add", min_width=80)
        put = gr.Button("Change chosen", elem_id="paint-put", min_width=110)
        undo = gr.Button("Undo", elem_id="paint-undo", min_width=60)
        redo = gr.Button("Redo", elem_id="paint-redo", min_width=60)
    return {
        "feature": name, "op": op, "strength": strength, "unit": unit, "steps": steps, "branch": branch,
        "where": where, "add": add, "put": put, "undo": undo, "redo": redo,
    }  # fmt: skip


def shown_parts(parts: Parts) -> list[Any]:
    """The components that `shown` updates."""
    return [parts.sheet, parts.canvas, parts.edits, parts.copied]


def made(shared: SharedComponents) -> list[Any]:
    """The components that a picture that was made updates: those of `shown`, and the result."""
    parts = shared.pages["paint"]
    return [*shown_parts(parts), parts.result]


def shown(session: ExplorerSession, sheet: Sheet, copy: str) -> tuple:
    """Everything that follows from the sheet."""
    if copy not in COPIES:
        raise UnboxError(f"a picture is copied as one of {', '.join(COPIES)}")
    return sheet, canvas_html(sheet), edits_html(sheet), COPIES[copy](sheet.recipe, session)


def wire(shared: SharedComponents) -> None:
    """The page's events."""
    _wire_runs(shared)
    _wire_list(shared)
    _wire_arrivals(shared)


def _wire_runs(shared: SharedComponents) -> None:
    """Generate, control, stop, copy, and the settings of another system."""
    session, parts = shared.session, shared.pages["paint"]
    inputs = {*parts.controls.components, parts.guard, parts.sheet, parts.copy}
    results = [*made(shared), shared.link]

    def run(
        data: dict, request: gr.Request, progress: gr.Progress = gr.Progress(), control: bool = False  # noqa: B008
    ) -> tuple:  # fmt: skip
        sheet = data[parts.sheet]
        own = sheet.recipe
        recipe = generation_controls.recipe_of(
            parts.controls, data, edits=own.edits, off=own.off, guard=bool(data[parts.guard])
        )
        with shared.stop_switches.running(request) as stop:
            changed = sheet.changed(recipe, sheet.chosen)
            sheet = paint(session, changed, stop, control, progress_callback(progress, recipe.steps))
        return *shown(session, sheet, data[parts.copy]), result_html(sheet), link("paint", r=recipe.to_link())

    def run_control(data: dict, request: gr.Request, progress: gr.Progress = gr.Progress()) -> tuple:  # noqa: B008
        return run(data, request, progress, control=True)

    runs = [listen(event, run, inputs, results, device=True)
            for event in (parts.make.click, parts.controls.prompt.submit)]  # fmt: skip
    runs.append(listen(parts.control.click, run_control, inputs, results, device=True))
    for each in runs:
        shared.linked(each)
    shared.stoppable(parts.stop, runs)
    listen(parts.copy.input, lambda sheet, copy: shown(session, sheet, copy)[-1], [parts.sheet, parts.copy],
       [parts.copied], show_progress="hidden")  # fmt: skip
    system, _, _, *sizes = parts.controls.components[:7]
    listen(
        parts.controls.system.input,
        lambda name: generation_controls.settings_of(session, name),
        [system],
        sizes,
        show_progress="hidden",
    )


def _wire_list(shared: SharedComponents) -> None:
    """The mask, the controls of an edit, and the list."""
    session, parts = shared.session, shared.pages["paint"]
    fields = [
        parts.feature,
        parts.op,
        parts.strength,
        parts.unit,
        parts.steps,
        parts.branch,
        parts.where,
    ]
    state = [parts.sheet, parts.copy]

    def brush(event: gr.EventData, sheet: Sheet) -> tuple[Sheet, str]:
        mask = painted(*(event._data.get(k) for k in ("mask", "width", "height")))
        return replace(sheet, mask=mask), PAINTED if mask else EVERYWHERE

    listen(parts.canvas.input, brush, [parts.sheet], [parts.sheet, parts.where], show_progress="hidden")

    def add(data: dict) -> tuple:
        return shown(session, data[parts.sheet].add(edit_of(session, parts, data)), data[parts.copy])

    def put(data: dict) -> tuple:
        return shown(session, data[parts.sheet].put(edit_of(session, parts, data)), data[parts.copy])

    listen(parts.add.click, add, {*fields, *state}, shown_parts(parts), show_progress="hidden")
    listen(parts.put.click, put, {*fields, *state}, shown_parts(parts), show_progress="hidden")
    for button, change in ((parts.undo, Sheet.undo), (parts.redo, Sheet.redo)):

        def step(sheet: Sheet, copy: str, change: Any = change) -> tuple:
            return shown(session, change(sheet), copy)

        listen(button.click, step, state, shown_parts(parts), show_progress="hidden")

    def act(event: gr.EventData, sheet: Sheet, copy: str) -> tuple:
        what, place = event_value(event, "act", str), event_value(event, "place", int)
        changes = {
            "choose": lambda: sheet.choose(place), "toggle": lambda: sheet.toggle(place),
            "remove": lambda: sheet.remove(place), "up": lambda: sheet.move(place, -1),
            "down": lambda: sheet.move(place, 1),
        }  # fmt: skip
        if what not in changes or place is None:
            raise UnboxError("not a button of the list")
        sheet = changes[what]()
        values = fields_of(sheet) if what == "choose" else (gr.skip(),) * len(fields)
        return *shown(session, sheet, copy), *values

    listen(parts.edits.click, act, state, [*shown_parts(parts), *fields], show_progress="hidden")


def _wire_arrivals(shared: SharedComponents) -> None:
    """Pictures and features that come from other pages, and recipes from PNGs."""
    parts, explore = shared.pages["paint"], shared.pages["explore"]
    arrived = arrivals(shared)

    def from_explore(recorded: RecordedImage | None, chosen: str, copy: str) -> tuple:
        if recorded is None:
            raise UnboxError("make a picture first")
        return opened(shared.session, recorded, chosen, copy)

    listen(explore.paint.click, from_explore, [explore.recorded, explore.chosen, parts.copy], arrived)

    def from_card(event: gr.EventData, recorded: RecordedImage | None, copy: str) -> tuple:
        name = event_value(event, "paint", str)
        if not name or recorded is None:
            return (gr.skip(),) * len(arrived)
        return opened(shared.session, recorded, name, copy)

    def from_feature(name: str) -> tuple:
        shared.session.feature(name)
        return select("paint"), name.strip()

    listen(shared.pages["feature"].paint.click, from_feature, [shared.pages["feature"].name],
       [shared.tabs, parts.feature], show_progress="hidden")  # fmt: skip
    listen(explore.card.click, from_card, [explore.recorded, parts.copy], arrived, show_progress="hidden")

    def restored(event: gr.EventData, copy: str) -> tuple:
        text = event_value(event, "recipe", str)
        if text is None:
            raise UnboxError(event_value(event, "problem", str) or "this file holds no recipe")
        return restore(shared.session, Recipe.from_text(text), copy)

    listen(parts.drop.input, restored, [parts.copy], arrived)


def arrivals(shared: SharedComponents) -> list[Any]:
    """The components that `opened` and `restore` update."""
    parts = shared.pages["paint"]
    return [
        *shown_parts(parts),
        shared.tabs,
        *parts.controls.components,
        parts.feature,
        parts.guard,
        parts.result,
    ]


def opened(session: ExplorerSession, recorded: RecordedImage, feature: str, copy: str) -> tuple:
    """The page with a picture that was made elsewhere."""
    sheet = Sheet(recorded.recipe.plain, before=recorded.image, made=recorded.recipe.plain)
    values = generation_controls.values_of(sheet.recipe)
    return *shown(session, sheet, copy), select("paint"), *values, feature or gr.skip(), False, EMPTY


def restore(session: ExplorerSession, recipe: Recipe, copy: str) -> tuple:
    """The page with a recipe from a link or a PNG, not yet made again."""
    if recipe.system not in session.systems:
        raise UnboxError(f"this picture is of {recipe.system}; here there are {', '.join(session.systems)}")
    sheet = Sheet(recipe)
    values = generation_controls.values_of(recipe)
    note = '<p class="ub-none">Restored. Generate makes the picture again.</p>'
    return *shown(session, sheet, copy), select("paint"), *values, gr.skip(), recipe.guard, note


def paint(
    session: ExplorerSession, sheet: Sheet, stop: Any = None, control: bool = False, progress: Any = None
) -> Sheet:
    """Make the picture without and with its edits. `control`: with random features of equal norm instead."""
    recipe = sheet.recipe
    asked_for = session.random_control(recipe) if control else recipe
    before, after = session.generate([recipe.plain, asked_for], stop, progress)
    return replace(sheet, before=before, after=after, made=asked_for)


def edit_of(session: ExplorerSession, parts: Parts, data: Mapping[Any, Any]) -> Edit:
    """The edit that the controls say; `data` has a value for each component."""
    chosen = session.feature(limits.text("feature", data[parts.feature] or "", 200))
    op, where, mask = data[parts.op], data[parts.where], data[parts.sheet].mask
    if op not in OPS:
        raise UnboxError(f"no op '{op}'; there are {', '.join(OPS)}")
    if where == PAINTED and mask is None:
        raise UnboxError("paint on the picture first, or choose 'everywhere'")
    options: dict[str, Any] = {"where": {PAINTED: mask, OWN: "own"}.get(where), "branch": data[parts.branch]}
    if (steps := steps_of(data[parts.steps])) is not None:
        options["steps"] = steps
    value = limits.number("strength", data[parts.strength], -limits.STRENGTH, limits.STRENGTH)
    if op == "ablate":
        return chosen.ablate(**options)
    if op == "scale":
        return chosen.scale(value, **options)
    return getattr(chosen, op)(value, unit=data[parts.unit], **options)


def steps_of(text: Any) -> tuple[int, int] | None:
    """The half-open range of steps that `all`, `2` or `0-2` (both included) means; None is all steps."""
    first, _, last = limits.text("steps", text or ALL_STEPS, 9).replace(" ", "").partition("-")
    if first == ALL_STEPS:
        return None
    if not (first.isascii() and first.isdigit() and (last or first).isascii() and (last or first).isdigit()):
        raise UnboxError(f"steps are 'all', one like '2', or several like '0-2', not '{text}'")
    return int(first), int(last or first) + 1


def fields_of(sheet: Sheet) -> tuple:
    """The controls' values of the chosen edit."""
    assert sheet.chosen is not None
    edit = sheet.recipe.edits[sheet.chosen]
    value = edit.value if isinstance(edit.value, float) else edit.value[0]
    steps = ALL_STEPS if edit.steps is None else f"{edit.steps[0]}-{edit.steps[1] - 1}"
    name = f"{edit.source or edit.block}/{edit.feature[0]}" if edit.feature else edit.block
    where = EVERYWHERE if edit.where is None else OWN if edit.where.own else PAINTED
    return name, edit.op, value, edit.unit, steps, edit.branch, where
