"""Paint: masks on the picture, edits in a list, before and after."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from unbox.explorer import controls, limits, pictures, views
from unbox.explorer.controls import Controls
from unbox.explorer.lab import Lab, Sight
from unbox.explorer.parts import Shell, link, select
from unbox.explorer.recipe import Recipe, describe
from unbox.explorer.sheet import Sheet, mask_size, mask_text, painted
from unbox.explorer.shell import DROP, PAINT, asked, live, on
from unbox.words import Edit, UnboxError
from unbox.words.edit import BRANCHES, UNITS

TITLE = "Paint"
OPS = ("add", "scale", "set", "ablate", "replace")
ALL_STEPS = "all"
EVERYWHERE, PAINTED, OWN = "everywhere", "painted mask", "where it fires"
COPIES = {
    "JSON": lambda recipe: _json(recipe),
    "Python": Recipe.to_python,
    "command line": Recipe.to_command,
    "experiment": Recipe.to_experiment,
}


@dataclass(frozen=True)
class Parts:
    """The page's components."""

    controls: Controls
    make: Any
    stop: Any
    control: Any
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


def draw(lab: Lab, first: Recipe) -> Parts:
    """The page's components; call inside its tab."""
    with gr.Row(elem_classes="ub-page"):
        with gr.Column(scale=5, min_width=320):
            own = controls.draw(lab, first, "paint")
            with gr.Row():
                make = gr.Button("Generate", variant="primary", elem_id="paint-make", min_width=100)
                stop = gr.Button("Stop", min_width=60)
                control = gr.Button("Random features instead", elem_id="paint-control", min_width=150)
                guard = gr.Checkbox(False, label="Guard norms", min_width=100,
                                    info="keep updates within recorded norms")  # fmt: skip
            canvas = live(canvas_html(Sheet(first)), PAINT, elem_id="paint-canvas")
        with gr.Column(scale=5, min_width=320):
            with gr.Group():
                with gr.Row():
                    feature = gr.Textbox(label="Feature", placeholder=f"{next(iter(lab.saes), 'up.0.1')}/0",
                                         max_length=200, elem_id="paint-feature", min_width=130)  # fmt: skip
                    op = gr.Dropdown(list(OPS), value="add", label="Op", min_width=90)
                    strength = gr.Number(
                        3.0,
                        label="Strength",
                        minimum=-limits.STRENGTH,
                        maximum=limits.STRENGTH,
                        elem_id="paint-strength",
                        min_width=80,
                    )
                    unit = gr.Dropdown(list(UNITS), value="deviation", label="Unit", min_width=100)
                where = gr.Radio([EVERYWHERE, PAINTED, OWN], value=EVERYWHERE, label="Where",
                                 elem_id="paint-where")  # fmt: skip
                with gr.Row():
                    steps = gr.Textbox(ALL_STEPS, label="Steps", max_length=9, min_width=80,
                                       elem_id="paint-steps", placeholder="all, 0 or 0-2")  # fmt: skip
                    branch = gr.Dropdown(list(BRANCHES), value="both", label="Branch", min_width=90)
                with gr.Row():
                    add = gr.Button("Add edit", variant="primary", elem_id="paint-add", min_width=90)
                    put = gr.Button("Change chosen", elem_id="paint-put", min_width=90)
                    undo = gr.Button("Undo", elem_id="paint-undo", min_width=60)
                    redo = gr.Button("Redo", min_width=60)
            edits = live(edits_html(Sheet(first)), elem_id="paint-edits")
            result = live("", elem_id="paint-result")
            with gr.Accordion("Copy, save, restore", open=False):
                copy = gr.Radio(list(COPIES), value="JSON", label="Copy as", min_width=200)
                copied = gr.Code(label="This picture", language=None, lines=4, max_lines=14,
                                 interactive=False, elem_id="paint-copied")  # fmt: skip
            drop = live(DROP_ZONE, DROP, elem_id="paint-drop")
    return Parts(
        own, make, stop, control, guard, canvas, feature, op, strength, unit, steps, branch,
        where, add, put, undo, redo, edits, result, copy, copied, drop,
        gr.State(Sheet(first), time_to_live=3600),
    )  # fmt: skip


def shown_parts(parts: Parts) -> list[Any]:
    """The components that `shown` updates."""
    return [parts.sheet, parts.canvas, parts.edits, parts.copied]


def shown(sheet: Sheet, copy: str) -> tuple:
    """Everything that follows from the sheet."""
    return sheet, canvas_html(sheet), edits_html(sheet), COPIES[copy](sheet.recipe)


def wire(shell: Shell) -> None:
    """The page's events."""
    _wire_runs(shell)
    _wire_list(shell)
    _wire_arrivals(shell)


def _wire_runs(shell: Shell) -> None:
    """Generate, control, stop, copy, and the settings of another system."""
    lab, parts = shell.lab, shell.pages["paint"]
    inputs = {*parts.controls.components, parts.guard, parts.sheet, parts.copy}
    made = [*shown_parts(parts), parts.result, shell.link]

    def run(data: dict, request: gr.Request, control: bool = False) -> tuple:
        sheet = data[parts.sheet]
        own = sheet.recipe
        recipe = controls.recipe_of(
            parts.controls, data, edits=own.edits, off=own.off, guard=bool(data[parts.guard])
        )
        with shell.stops.running(request) as stop:
            sheet = paint(lab, sheet.changed(recipe, sheet.chosen), stop, control)
        return *shown(sheet, data[parts.copy]), result_html(sheet), link("paint", r=recipe.to_link())

    def run_control(data: dict, request: gr.Request) -> tuple:
        return run(data, request, control=True)

    for event in (parts.make.click, parts.controls.prompt.submit):
        shell.linked(on(event, run, inputs, made, device=True))
    shell.linked(on(parts.control.click, run_control, inputs, made, device=True))
    on(parts.stop.click, shell.stops.stop, None, None, queue=False)
    on(parts.copy.input, lambda sheet, copy: COPIES[copy](sheet.recipe), [parts.sheet, parts.copy],
       [parts.copied], show_progress="hidden")  # fmt: skip
    system, _, _, *sizes = parts.controls.components[:7]
    on(parts.controls.system.input, lambda name: controls.settings_of(lab, name), [system], sizes,
       show_progress="hidden")  # fmt: skip


def _wire_list(shell: Shell) -> None:
    """The mask, the controls of an edit, and the list."""
    lab, parts = shell.lab, shell.pages["paint"]
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

    on(parts.canvas.input, brush, [parts.sheet], [parts.sheet, parts.where], show_progress="hidden")

    def add(data: dict) -> tuple:
        return shown(data[parts.sheet].add(edit_of(lab, parts, data)), data[parts.copy])

    def put(data: dict) -> tuple:
        return shown(data[parts.sheet].put(edit_of(lab, parts, data)), data[parts.copy])

    on(parts.add.click, add, {*fields, *state}, shown_parts(parts), show_progress="hidden")
    on(parts.put.click, put, {*fields, *state}, shown_parts(parts), show_progress="hidden")
    for button, change in ((parts.undo, Sheet.undo), (parts.redo, Sheet.redo)):

        def step(sheet: Sheet, copy: str, change: Any = change) -> tuple:
            return shown(change(sheet), copy)

        on(button.click, step, state, shown_parts(parts), show_progress="hidden")

    def act(event: gr.EventData, sheet: Sheet, copy: str) -> tuple:
        what, place = asked(event, "act", str), asked(event, "place", int)
        changes = {
            "choose": lambda: sheet.choose(place), "toggle": lambda: sheet.toggle(place),
            "remove": lambda: sheet.remove(place), "up": lambda: sheet.move(place, -1),
            "down": lambda: sheet.move(place, 1),
        }  # fmt: skip
        if what not in changes or place is None:
            raise UnboxError("not a button of the list")
        sheet = changes[what]()
        values = fields_of(sheet) if what == "choose" else (gr.skip(),) * len(fields)
        return *shown(sheet, copy), *values

    on(parts.edits.click, act, state, [*shown_parts(parts), *fields], show_progress="hidden")


def _wire_arrivals(shell: Shell) -> None:
    """Pictures and features that come from other pages, and recipes from PNGs."""
    parts, explore = shell.pages["paint"], shell.pages["explore"]
    arrived = arrivals(shell)

    def from_explore(sight: Sight | None, chosen: str, copy: str) -> tuple:
        if sight is None:
            raise UnboxError("make a picture first")
        return opened(sight, chosen, copy)

    on(explore.paint.click, from_explore, [explore.sight, explore.chosen, parts.copy], arrived)

    def from_card(event: gr.EventData, sight: Sight | None, copy: str) -> tuple:
        name = asked(event, "paint", str)
        return opened(sight, name, copy) if name and sight is not None else (gr.skip(),) * len(arrived)

    on(explore.card.click, from_card, [explore.sight, parts.copy], arrived, show_progress="hidden")

    def restored(event: gr.EventData, copy: str) -> tuple:
        text = asked(event, "recipe", str)
        if text is None:
            raise UnboxError(asked(event, "problem", str) or "this file holds no recipe")
        return restore(shell.lab, Recipe.from_text(text), copy)

    on(parts.drop.input, restored, [parts.copy], arrived)


def arrivals(shell: Shell) -> list[Any]:
    """The components that `opened`, `restore` and `arrive` update."""
    parts = shell.pages["paint"]
    return [
        *shown_parts(parts), shell.tabs, *parts.controls.components, parts.feature, parts.guard, parts.result,
    ]  # fmt: skip


def opened(sight: Sight, feature: str, copy: str) -> tuple:
    """The page with a picture that was made elsewhere."""
    sheet = Sheet(sight.recipe.plain, before=sight.image, made=sight.recipe.plain)
    values = controls.values_of(sheet.recipe)
    return *shown(sheet, copy), select("paint"), *values, feature, False, ""


def restore(lab: Lab, recipe: Recipe, copy: str) -> tuple:
    """The page with a recipe from a link or a PNG, not yet made again."""
    if recipe.system not in lab.systems:
        raise UnboxError(f"this picture is of {recipe.system}; here there are {', '.join(lab.systems)}")
    sheet = Sheet(recipe)
    values = controls.values_of(recipe)
    note = '<p class="ub-none">Restored. Generate makes the picture again.</p>'
    return *shown(sheet, copy), select("paint"), *values, gr.skip(), recipe.guard, note


def arrive(shell: Shell, recipe: Recipe, request: gr.Request) -> tuple:
    """The page with a recipe from a link, made."""
    with shell.stops.running(request) as stop:
        sheet = paint(shell.lab, Sheet(recipe), stop)
    values = controls.values_of(recipe)
    return *shown(sheet, "JSON"), select("paint"), *values, gr.skip(), recipe.guard, result_html(sheet)


def paint(lab: Lab, sheet: Sheet, stop: Any = None, control: bool = False) -> Sheet:
    """Make the picture without and with its edits. `control`: with random features of equal norm instead."""
    recipe = sheet.recipe
    asked_for = lab.random_control(recipe) if control else recipe
    before, after = lab.generate([recipe.plain, asked_for], stop)
    return replace(sheet, before=before, after=after, made=asked_for)


def edit_of(lab: Lab, parts: Parts, data: Mapping[Any, Any]) -> Edit:
    """The edit that the controls say; `data` has a value for each component."""
    chosen = lab.feature(limits.text("feature", data[parts.feature] or "", 200))
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


def canvas_html(sheet: Sheet) -> str:
    """The picture to paint on, with the tools."""
    image = sheet.before
    width, height = mask_size(sheet.recipe)
    base = (
        f'<img class="ub-picture" alt="the picture to paint on" src="{pictures.uri(image)}">' if image else ""
    )
    return (
        f'<div class="ub-stage ub-paint" style="--ratio:{sheet.recipe.width}/{sheet.recipe.height}">{base}'
        f'<canvas data-paint width="{width}" height="{height}" '
        f'data-mask="{mask_text(sheet.mask, (width, height))}" aria-label="mask"></canvas></div>'
        '<div class="ub-under"><button data-tool="brush" class="ub-chosen">brush</button>'
        '<button data-tool="eraser">eraser</button><button data-tool="all">fill</button>'
        '<button data-tool="clear">clear</button>'
        '<label class="ub-slider">size <input type="range" min="1" max="16" value="4" data-brush '
        'aria-label="size of the brush"></label></div>'
    )


def edits_html(sheet: Sheet) -> str:
    """The list of edits with its buttons."""
    if not len(sheet.recipe.edits):
        return '<p class="ub-none">No edits yet: name a feature, paint where, add.</p>'
    rows = []
    for place, edit in enumerate(sheet.recipe.edits):
        off = place in sheet.recipe.off
        when = "all steps" if edit.steps is None else f"steps {edit.steps[0]}\u2013{edit.steps[1] - 1}"
        where = "everywhere" if edit.where is None else "where it fires" if edit.where.own else "masked"
        detail = f"{when}, {where}" + (f", {edit.branch}" if edit.branch != "both" else "")
        buttons = "".join(
            f'<button {views.go(act=act, place=place)} aria-label="{word}" title="{word}">{sign}</button>'
            for act, word, sign in (
                ("toggle", "on or off", "\u25cb" if off else "\u25cf"), ("up", "up", "\u2191"),
                ("down", "down", "\u2193"), ("remove", "remove", "\u2715"),
            )
        )  # fmt: skip
        css = " ub-off" * off + " ub-chosen" * (place == sheet.chosen)
        rows.append(
            f'<li class="ub-edit{css}"><button class="ub-what" {views.go(act="choose", place=place)}>'
            f"<b>{views.escape(describe(edit))}</b><small>{views.escape(detail)}</small></button>{buttons}</li>"
        )
    return f'<ol class="ub-edits">{"".join(rows)}</ol>'


def result_html(sheet: Sheet) -> str:
    """Before and after, their difference, and the picture to save."""
    if sheet.before is None or sheet.after is None or sheet.made is None:
        return ""
    masks = [edit.where for edit in sheet.made.active if edit.where is not None and not edit.where.own]
    note = ""
    if masks:
        levels = masks[0].on(64, 64)
        inside, outside = pictures.changed(
            sheet.before,
            sheet.after,
            levels.max(tuple(range(levels.ndim - 2))) if levels.ndim > 2 else levels,
        )
        note = f"mean change {inside:.1f} inside the mask, {outside:.1f} outside (of 255)"
    else:
        note = f"mean change {pictures.changed(sheet.before, sheet.after)[0]:.1f} (of 255)"
    change = pictures.difference(sheet.before, sheet.after).convert("RGB")
    png = base64.b64encode(pictures.png_with_recipe(sheet.after, sheet.made.to_json())).decode("ascii")
    return (
        f"{views.slider(sheet.before, sheet.after)}"
        f'<div class="ub-pair">{views.picture(change, "difference")}'
        f'<div><p>{note}</p><a class="ub-save" download="unbox-{sheet.made.seed}.png" '
        f'href="data:image/png;base64,{png}">Save PNG with its recipe</a></div></div>'
    )


def _json(recipe: Recipe) -> str:
    return json.dumps(recipe.to_json(), indent=1, ensure_ascii=False)


DROP_ZONE = (
    '<label class="ub-drop">Drop a PNG saved here, or choose one, to restore its recipe'
    '<input type="file" accept="image/png" aria-label="PNG to restore"></label>'
)
