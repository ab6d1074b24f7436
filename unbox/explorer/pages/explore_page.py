"""Explore: make a picture, see which features fired, and where."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import gradio as gr
from gradio.blocks import Block

from unbox.errors import UnboxError
from unbox.explorer import feature_summaries, generation_controls
from unbox.explorer.events import FieldValue, Updates, event_value, html_component, listen
from unbox.explorer.generation_controls import GenerationControls
from unbox.explorer.html import render
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.recorded_image import RecordedImage
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import (
    InitialState,
    SharedComponents,
    link,
    progress_callback,
)

TITLE = "Explore"
HINT = "Click a feature to see where it fires; click the picture to see what fires there."
ALL = "all"
TELLING, STRONG = "most telling", "strongest"


@dataclass(frozen=True)
class ExplorePage:
    """The page's components."""

    controls: GenerationControls
    make: gr.Button
    stop: gr.Button
    paint: gr.Button
    examples: gr.HTML
    stage: gr.HTML
    card: gr.HTML
    step: gr.Radio
    rank: gr.Radio
    place: gr.HTML
    features: gr.HTML
    recorded: gr.State
    chosen: gr.State


class ExploreHTML(NamedTuple):
    """What the page shows of a picture."""

    stage: str
    features: str
    card: str


def draw(session: ExplorerSession, initial: InitialState, examples: Sequence[str]) -> ExplorePage:
    """The page's components; call inside its tab."""
    recorded = initial.recorded
    if recorded is None:
        stage_html: str = render("stage.html", image=None, hint="The picture appears here.")
        features_html: str = render("note.html", note="Features appear here after the first picture.")
    else:
        stage_html, features_html, _ = show(session, recorded, ALL, TELLING, "")
    controls = generation_controls.draw(session, initial.recipe, "explore")
    with gr.Row(elem_classes="ub-toolbar"):
        make = gr.Button("Generate", variant="primary", elem_id="explore-make", scale=0, min_width=120)
        stop = gr.Button("Stop", elem_id="explore-stop", scale=0, min_width=70)
        paint = gr.Button("Paint on it", elem_id="explore-paint", scale=0, min_width=110)
        ideas = html_component(render("prompts_to_try.html", prompts=examples), elem_id="explore-ideas")
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
    return ExplorePage(controls, make, stop, paint, ideas, stage, card, step, rank, place, features,
                       gr.State(recorded, time_to_live=3600), gr.State(""))  # fmt: skip


def outputs(shared: SharedComponents, page: ExplorePage) -> list[Block]:
    """The components that `make_image` updates."""
    return [page.recorded, page.chosen, page.stage, page.step, page.features, page.place, page.card,
            shared.link]  # fmt: skip


def wire(shared: SharedComponents, page: ExplorePage) -> None:
    """The page's events."""
    _wire_runs(shared, page)
    _wire_views(shared.session, page)


def _wire_runs(shared: SharedComponents, page: ExplorePage) -> None:
    """Generate, stop, prompts to try, and the settings of another system."""
    controls = page.controls

    def make(
        request: gr.Request, progress: gr.Progress = gr.Progress(), *values: FieldValue  # noqa: B008
    ) -> Updates:  # fmt: skip
        return make_image(shared, page, controls.recipe(values), request, progress)

    def prompt_of(event: gr.EventData) -> str:
        return event_value(event, "prompt", str) or ""

    picked = listen(page.examples.click, prompt_of, None, [controls.prompt], show_progress="hidden")
    runs = [
        listen(event, make, controls.components, outputs(shared, page), device=True)
        for event in (page.make.click, controls.prompt.submit, picked.then)
    ]
    for run in runs:
        shared.show_link(run)
    shared.wire_stop(page.stop, runs)
    controls.wire(shared.session)


def _wire_views(session: ExplorerSession, page: ExplorePage) -> None:
    """What a feature, a step, an order or a place that is chosen shows of the picture."""
    view = [page.recorded, page.step, page.rank, page.chosen]
    shown = [page.chosen, page.stage, page.features, page.card]

    def choose(
        event: gr.EventData, recorded: RecordedImage | None, step: str, rank: str, chosen: str
    ) -> Updates:
        return change_view(recorded, step, rank, event_value(event, "feature", str) or chosen)

    def change_view(recorded: RecordedImage | None, step: str, rank: str, chosen: str) -> Updates:
        return {page.chosen: chosen, **_updates(page, show(session, recorded, step, rank, chosen))}

    def show_place(event: gr.EventData, recorded: RecordedImage | None, step: str, rank: str, _: str) -> str:
        x, y = event_value(event, "x", float) or 0.0, event_value(event, "y", float) or 0.0
        if recorded is None or not (0 <= x < 1 and 0 <= y < 1):
            return ""
        return feature_summaries.at_place(session, recorded, x, y, step_of(step), rank == TELLING)

    for source in (page.features, page.place):
        listen(source.click, choose, view, shown, show_progress="hidden")
    for control in (page.step, page.rank):
        listen(control.input, change_view, view, shown, show_progress="hidden")
    listen(page.stage.select, show_place, view, [page.place], show_progress="hidden")


def make_image(
    shared: SharedComponents, page: ExplorePage, recipe: Recipe, request: gr.Request | None,
    progress: gr.Progress | None = None,
) -> Updates:  # fmt: skip
    """Make the picture of a recipe and everything that the page shows of it."""
    with shared.stop_switches.running(request) as stop:
        recorded = shared.session.record(recipe, stop, progress_callback(progress, recipe.steps))
    return {
        page.recorded: recorded,
        page.chosen: "",
        page.step: gr.Radio([ALL, *map(str, recorded.steps)], value=ALL),
        page.place: "",
        shared.link: link("explore", r=recipe.to_link()),
        **_updates(page, show(shared.session, recorded, ALL, TELLING, "")),
    }


def _updates(page: ExplorePage, shown: ExploreHTML) -> Updates:
    return {page.stage: shown.stage, page.features: shown.features, page.card: shown.card}


def show(
    session: ExplorerSession, recorded: RecordedImage | None, step: str, rank: str, chosen: str
) -> ExploreHTML:
    """What the page shows of a picture, with a feature chosen or none. Raises UnboxError without one."""
    if recorded is None:
        raise UnboxError("make a picture first")
    heat, scale, card = None, 1.0, ""
    sae, _, index = chosen.rpartition("/")
    if chosen and sae in recorded.values:
        session.feature(chosen)
        heat = recorded.heat(sae, int(index), step_of(step))
        scale = feature_summaries.scale_of(session, chosen)
        card = chosen_feature(session, chosen, float(heat.max()))
    stage = render("stage.html", image=recorded.image, heat=heat, scale=scale,
                   caption=recorded.recipe.prompt, hint=HINT)  # fmt: skip
    features = feature_summaries.strongest(session, recorded, step_of(step), rank == TELLING, chosen)
    return ExploreHTML(stage, features, card)


def chosen_feature(session: ExplorerSession, name: str, peak: float) -> str:
    """The chosen feature in short, with what can be done with it."""
    facts = feature_summaries.facts_of(session, [name]).get(name)
    examples = session.atlas.examples(name, "top")[:6] if facts and session.atlas is not None else []
    return render("chosen_feature.html", name=name, facts=facts, examples=examples, peak=peak)


def step_of(value: str) -> int | None:
    """The step that the radio says; None for all."""
    return int(value) if str(value).isdigit() else None
