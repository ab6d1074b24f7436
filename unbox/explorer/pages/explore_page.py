"""Explore: make a picture, see which features fired, and where."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from unbox.errors import UnboxError
from unbox.explorer import feature_summaries, fragments, generation_controls
from unbox.explorer.events import event_value, html_component, listen
from unbox.explorer.generation_controls import Controls
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.session import ExplorerSession, RecordedImage
from unbox.explorer.shared_components import InitialState, SharedComponents, link, progress_callback

TITLE = "Explore"
HINT = "Click a feature to see where it fires; click the picture to see what fires there."
EMPTY = '<p class="ub-none">Features appear here after the first picture.</p>'
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
    recorded: Any
    chosen: Any


def draw(session: ExplorerSession, initial: InitialState, examples: list[str]) -> Parts:
    """The page's components; call inside its tab."""
    recorded, first = initial.recorded, initial.recipe
    stage_html, features_html = fragments.stage(None, hint="The picture appears here."), EMPTY
    if recorded is not None:
        _, stage_html, features_html, _ = show(session, recorded, ALL, TELLING, "")
    own = generation_controls.draw(session, first, "explore")
    rows = "".join(
        f'<button {fragments.go(prompt=text)} title="{fragments.escape(text)}">{fragments.escape(text)}</button>'  # noqa: E501
        for text in examples
    )
    with gr.Row(elem_classes="ub-toolbar"):
        make = gr.Button("Generate", variant="primary", elem_id="explore-make", scale=0, min_width=120)
        stop = gr.Button("Stop", elem_id="explore-stop", scale=0, min_width=70)
        paint = gr.Button("Paint on it", elem_id="explore-paint", scale=0, min_width=110)
        ideas = html_component(
            f'<div class="ub-ideas"><span>Try</span>{rows}</div>' if rows else "", elem_id="explore-ideas"
        )
    with gr.Row(elem_classes="ub-page"):
        with gr.Column(scale=4, min_width=320):
            stage = html_component(stage_html, elem_id="explore-stage")
            card = html_component("", elem_id="explore-card")
        with gr.Column(scale=6, min_width=320):
            with gr.Row(elem_classes="ub-toolbar"):
                steps = [ALL, *map(str, recorded.steps)] if recorded else [ALL]
                step = gr.Radio(steps, value=ALL, label="Step", elem_id="explore-step", min_width=140)
                rank = gr.Radio([TELLING, STRONG], value=TELLING, min_width=200,
                                label="Order of features (telling: rare ones count for more)")  # fmt: skip
            place = html_component("", elem_id="explore-place")
            features = html_component(features_html, elem_id="explore-features")
    return Parts(own, make, stop, paint, stage, step, rank, features, place, card, ideas,
                 gr.State(recorded, time_to_live=3600), gr.State(""))  # fmt: skip


def outputs(shared: SharedComponents) -> list[Any]:
    """The components that `look` updates."""
    p = shared.pages["explore"]
    return [p.recorded, p.chosen, p.stage, p.step, p.features, p.place, p.card, shared.link]


def wire(shared: SharedComponents) -> None:
    """The page's events."""
    session, parts = shared.session, shared.pages["explore"]
    inputs = set(parts.controls.components)
    made = outputs(shared)

    def make(data: dict, request: gr.Request, progress: gr.Progress = gr.Progress()) -> tuple:  # noqa: B008
        return look(shared, generation_controls.recipe_of(parts.controls, data), request, progress)

    picked = listen(parts.examples.click, _prompt, None, [parts.controls.prompt], show_progress="hidden")
    asks = (parts.make.click, parts.controls.prompt.submit, picked.then)
    runs = [listen(event, make, inputs, made, device=True) for event in asks]
    for run in runs:
        shared.linked(run)
    shared.stoppable(parts.stop, runs)
    system, _, _, *sizes = parts.controls.components[:7]
    listen(
        parts.controls.system.input,
        lambda name: generation_controls.settings_of(session, name),
        [system],
        sizes,
        show_progress="hidden",
    )

    view = [parts.recorded, parts.step, parts.rank, parts.chosen]
    shown = [parts.chosen, parts.stage, parts.features, parts.card]

    def choose(
        event: gr.EventData, recorded: RecordedImage | None, step: Any, rank: str, chosen: str
    ) -> tuple:
        return show(session, recorded, step, rank, event_value(event, "feature", str) or chosen)

    def again(recorded: RecordedImage | None, step: Any, rank: str, chosen: str) -> tuple:
        return show(session, recorded, step, rank, chosen)

    for source in (parts.features, parts.place):
        listen(source.click, choose, view, shown, show_progress="hidden")
    for control in (parts.step, parts.rank):
        listen(control.input, again, view, shown, show_progress="hidden")

    def where(event: gr.EventData, recorded: RecordedImage | None, step: Any, rank: str, _: str) -> str:
        x, y = event_value(event, "x", float) or 0.0, event_value(event, "y", float) or 0.0
        if recorded is None or not (0 <= x < 1 and 0 <= y < 1):
            return ""
        return feature_summaries.at_place(session, recorded, x, y, step_of(step), rank == TELLING)

    listen(parts.stage.select, where, view, [parts.place], show_progress="hidden")


def look(shared: SharedComponents, recipe: Recipe, request: gr.Request | None, progress: Any = None) -> tuple:
    """Make the picture of a recipe and everything that the page shows of it."""
    session = shared.session
    with shared.stop_switches.running(request) as stop:
        recorded = session.record(recipe, stop, progress_callback(progress, recipe.steps))
    steps = gr.Radio([ALL, *map(str, recorded.steps)], value=ALL)
    _, stage, features, card = show(session, recorded, ALL, TELLING, "")
    return recorded, "", stage, steps, features, "", card, link("explore", r=recipe.to_link())


def show(
    session: ExplorerSession, recorded: RecordedImage | None, step: Any, rank: str, chosen: str
) -> tuple:
    """(chosen, stage, features, card) of a picture with a feature chosen, or none."""
    if recorded is None:
        raise UnboxError("make a picture first")
    heat, scale, card = None, 1.0, ""
    if chosen and chosen.rpartition("/")[0] in recorded.values:
        session.feature(chosen)
        sae, _, index = chosen.rpartition("/")
        heat, scale = (
            recorded.heat(sae, int(index), step_of(step)),
            feature_summaries.scale_of(session, chosen),
        )
        card = chosen_card(session, chosen, float(heat.max()))
    stage = fragments.stage(recorded.image, heat, scale, recorded.recipe.prompt, HINT)
    return (
        chosen,
        stage,
        feature_summaries.strongest(session, recorded, step_of(step), rank == TELLING, chosen),
        card,
    )


def chosen_card(session: ExplorerSession, name: str, peak: float) -> str:
    """The chosen feature in short, with what can be done with it."""
    facts = feature_summaries.facts_of(session, [name]).get(name)
    label = facts.label if facts else ""
    figures = fragments.figures(facts) if facts else ""
    examples = ""
    if facts and session.atlas is not None:
        top = session.atlas.examples(name, "top")[:6]
        examples = "".join(fragments.example(each, facts.largest) for each in top)
    return (
        f'<div class="ub-chosen-card"><h3>{fragments.escape(label) or fragments.escape(name)} '
        f"<small>{fragments.escape(name)} \u00b7 here at most {peak:.3g}</small></h3>"
        f'<div class="ub-actions"><button {fragments.go(open=name)}>Open its page</button>'
        f"<button {fragments.go(paint=name)}>Paint with it</button></div>"
        f'<div class="ub-examples">{examples}</div>{figures}</div>'
    )


def step_of(value: Any) -> int | None:
    """The step that the radio says; None for all."""
    return int(value) if str(value).isdigit() else None


def _prompt(event: gr.EventData) -> str:
    return event_value(event, "prompt", str) or ""
