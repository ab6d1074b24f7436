"""Explore: make a picture, see which features fired, and where."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from unbox.explorer import controls, seen, views
from unbox.explorer.controls import Controls
from unbox.explorer.lab import Lab, Sight
from unbox.explorer.parts import Shell, link
from unbox.explorer.recipe import Recipe
from unbox.explorer.shell import asked, live, on
from unbox.words import UnboxError

TITLE = "Explore"
HINT = "Click a feature to see where it fires; click the picture to see what fires there."
ALL = "all"
TELLING, STRONG = "most telling", "strongest"


@dataclass(frozen=True)
class Parts:
    """The page's components."""

    controls: Controls
    make: Any
    stop: Any
    paint: Any
    stage: Any
    step: Any
    rank: Any
    features: Any
    place: Any
    card: Any
    examples: Any
    sight: Any
    chosen: Any


def draw(lab: Lab, first: Recipe, examples: list[str]) -> Parts:
    """The page's components; call inside its tab."""
    with gr.Row(elem_classes="ub-page"):
        with gr.Column(scale=4, min_width=320):
            chosen_controls = controls.draw(lab, first, "explore")
            with gr.Row():
                make = gr.Button("Generate", variant="primary", elem_id="explore-make", min_width=100)
                stop = gr.Button("Stop", elem_id="explore-stop", min_width=60)
                paint = gr.Button("Paint on it", elem_id="explore-paint", min_width=100)
            rows = "".join(
                f'<button class="ub-example-prompt" {views.go(prompt=text)}>{views.escape(text)}</button>'
                for text in examples
            )
            ideas = live(f'<div class="ub-ideas">{rows}</div>' if rows else "")
            stage = live(views.stage(None, hint="The picture appears here."), elem_id="explore-stage")
            card = live("", elem_id="explore-card")
        with gr.Column(scale=6, min_width=320):
            with gr.Row():
                step = gr.Radio([ALL], value=ALL, label="Step", elem_id="explore-step", min_width=140)
                rank = gr.Radio([TELLING, STRONG], value=TELLING, label="Order of features", min_width=200,
                                info="telling: rare features count for more")  # fmt: skip
            place = live("", elem_id="explore-place")
            features = live(
                '<p class="ub-none">Features appear here after the first picture.</p>',
                elem_id="explore-features",
            )
    return Parts(chosen_controls, make, stop, paint, stage, step, rank, features, place, card, ideas,
                 gr.State(None, time_to_live=3600), gr.State(""))  # fmt: skip


def outputs(shell: Shell) -> list[Any]:
    """The components that `look` updates."""
    p = shell.pages["explore"]
    return [p.sight, p.chosen, p.stage, p.step, p.features, p.place, p.card, shell.link]


def wire(shell: Shell) -> None:
    """The page's events."""
    lab, parts = shell.lab, shell.pages["explore"]
    inputs = set(parts.controls.components)
    made = outputs(shell)

    def make(data: dict, request: gr.Request, progress: gr.Progress = gr.Progress()) -> tuple:  # noqa: B008
        return look(shell, controls.recipe_of(parts.controls, data), request, progress)

    for event in (parts.make.click, parts.controls.prompt.submit):
        shell.linked(on(event, make, inputs, made, device=True))
    picked = on(parts.examples.click, _prompt, None, [parts.controls.prompt])
    shell.linked(on(picked.then, make, inputs, made, device=True))
    on(parts.stop.click, shell.stops.stop, None, None, queue=False)
    system, _, _, *sizes = parts.controls.components[:7]
    on(parts.controls.system.change, lambda name: controls.settings_of(lab, name), [system], sizes,
       show_progress="hidden")  # fmt: skip

    view = [parts.sight, parts.step, parts.rank, parts.chosen]
    shown = [parts.chosen, parts.stage, parts.features, parts.card]

    def choose(event: gr.EventData, sight: Sight | None, step: Any, rank: str, chosen: str) -> tuple:
        return show(lab, sight, step, rank, asked(event, "feature", str) or chosen)

    def again(sight: Sight | None, step: Any, rank: str, chosen: str) -> tuple:
        return show(lab, sight, step, rank, chosen)

    for source in (parts.features, parts.place):
        on(source.click, choose, view, shown, show_progress="hidden")
    for control in (parts.step, parts.rank):
        on(control.input, again, view, shown, show_progress="hidden")

    def where(event: gr.EventData, sight: Sight | None, step: Any, rank: str, _: str) -> str:
        x, y = asked(event, "x", float) or 0.0, asked(event, "y", float) or 0.0
        if sight is None or not (0 <= x < 1 and 0 <= y < 1):
            return ""
        return seen.at_place(lab, sight, x, y, step_of(step), rank == TELLING)

    on(parts.stage.select, where, view, [parts.place], show_progress="hidden")


def look(shell: Shell, recipe: Recipe, request: gr.Request | None, progress: Any = None) -> tuple:
    """Make the picture of a recipe and everything that the page shows of it."""
    lab = shell.lab
    with shell.stops.running(request) as stop:
        sight = lab.look(recipe, stop, _told(progress, recipe.steps))
    steps = gr.Radio([ALL, *map(str, sight.steps)], value=ALL)
    _, stage, features, card = show(lab, sight, ALL, TELLING, "")
    return sight, "", stage, steps, features, "", card, link("explore", r=recipe.to_link())


def show(lab: Lab, sight: Sight | None, step: Any, rank: str, chosen: str) -> tuple:
    """(chosen, stage, features, card) of a picture with a feature chosen, or none."""
    if sight is None:
        raise UnboxError("make a picture first")
    heat, scale, card = None, 1.0, ""
    if chosen and chosen.rpartition("/")[0] in sight.values:
        lab.feature(chosen)
        sae, _, index = chosen.rpartition("/")
        heat, scale = sight.heat(sae, int(index), step_of(step)), seen.scale_of(lab, chosen)
        card = chosen_card(lab, chosen, float(heat.max()))
    stage = views.stage(sight.image, heat, scale, sight.recipe.prompt, HINT)
    return chosen, stage, seen.strongest(lab, sight, step_of(step), rank == TELLING, chosen), card


def chosen_card(lab: Lab, name: str, peak: float) -> str:
    """The chosen feature in short, with what can be done with it."""
    facts = seen.facts_of(lab, [name]).get(name)
    label = facts.label if facts else ""
    figures = views.figures(facts) if facts else ""
    examples = ""
    if facts and lab.atlas is not None:
        top = lab.atlas.examples(name, "top")[:6]
        examples = "".join(views.example(each, facts.largest) for each in top)
    return (
        f'<div class="ub-chosen-card"><h3>{views.escape(label) or views.escape(name)} '
        f"<small>{views.escape(name)}, here at most {peak:.2f}</small></h3>"
        f'<div class="ub-actions"><button {views.go(open=name)}>Open its page</button>'
        f"<button {views.go(paint=name)}>Paint with it</button></div>"
        f'<div class="ub-examples">{examples}</div>{figures}</div>'
    )


def step_of(value: Any) -> int | None:
    """The step that the radio says; None for all."""
    return int(value) if str(value).isdigit() else None


def _prompt(event: gr.EventData) -> str:
    return asked(event, "prompt", str) or ""


def _told(progress: Any, steps: int) -> Any:
    return None if progress is None else lambda done: progress((done, steps), desc="sampling", unit="steps")
