"""Explore: make a picture, see which features fired, and where."""

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr
from gradio.blocks import Block

from unbox.errors import UnboxError
from unbox.explorer import feature_summaries, generation_controls
from unbox.explorer.events import FieldValue, Updates, event_value, html_component, listen
from unbox.explorer.generation_controls import GenerationControls
from unbox.explorer.html import render
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.limits import Fraction, step_of
from unbox.explorer.recorded_image import RecordedImage
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import InitialState, SharedComponents, link
from unbox.validation import checked

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

    @property
    def views(self) -> list[Block]:
        """The components of what `show` answers."""
        return [self.stage, self.features, self.card]


def draw(session: ExplorerSession, initial: InitialState, examples: Sequence[str]) -> ExplorePage:
    """The page's components; call inside its tab."""
    recorded = initial.recorded
    stage_html: str = render("stage.html", image=None, hint="The picture appears here.")
    features_html: str = render("note.html", note="Features appear here after the first picture.")
    if recorded is not None:
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
    """Generate, stop, prompts to try; what a feature, a step, an order or a place that is chosen shows."""
    session, controls = shared.session, page.controls

    def make(*values: FieldValue) -> Updates:
        return make_image(shared, page, controls.recipe(values))

    def prompt_of(event: gr.EventData) -> str:
        return event_value(event, "prompt", str) or ""

    picked = listen(page.examples.click, prompt_of, None, [controls.prompt], show_progress="hidden")
    inputs, made = controls.components, outputs(shared, page)
    events = (page.make.click, controls.prompt.submit, picked.then)
    shared.wire_runs([listen(event, make, inputs, made, device=True) for event in events], page.stop)
    view = [page.recorded, page.step, page.rank, page.chosen]
    shown = [page.chosen, *page.views]

    def choose(
        event: gr.EventData, recorded: RecordedImage | None, step: str, rank: str, chosen: str
    ) -> Updates:
        return change_view(recorded, step, rank, event_value(event, "feature", str) or chosen)

    def change_view(recorded: RecordedImage | None, step: str, rank: str, chosen: str) -> Updates:
        views = show(session, recorded, step, rank, chosen)
        return {page.chosen: chosen, **dict(zip(page.views, views, strict=True))}

    def show_place(event: gr.EventData, recorded: RecordedImage | None, step: str, rank: str, _: str) -> str:
        if recorded is None:
            return ""
        x, y = (checked(Fraction, name, event_value(event, name, float)) for name in ("x", "y"))
        return feature_summaries.at_place(session, recorded, x, y, step_of(step), rank == TELLING)

    for source in (page.features, page.place):
        listen(source.click, choose, view, shown, show_progress="hidden")
    for control in (page.step, page.rank):
        listen(control.input, change_view, view, shown, show_progress="hidden")
    listen(page.stage.select, show_place, view, [page.place], show_progress="hidden")


def make_image(shared: SharedComponents, page: ExplorePage, recipe: Recipe) -> Updates:
    """Make the picture of a recipe and everything that the page shows of it."""
    recorded = shared.session.record(recipe)
    views = show(shared.session, recorded, ALL, TELLING, "")
    return {
        page.recorded: recorded,
        page.chosen: "",
        page.step: gr.Radio([ALL, *map(str, recorded.steps)], value=ALL),
        page.place: "",
        shared.link: link("explore", r=recipe.to_link()),
        **dict(zip(page.views, views, strict=True)),
    }


def show(
    session: ExplorerSession, recorded: RecordedImage | None, step: str, rank: str, chosen: str
) -> tuple[str, str, str]:
    """The HTML of the stage, the features and the card for a picture, with a feature chosen or none. Raises
    UnboxError without a picture."""
    if recorded is None:
        raise UnboxError("make a picture first")
    heat, scale, card = None, 1.0, ""
    sae, _, index = chosen.rpartition("/")
    if chosen and sae in recorded.values:
        session.feature(chosen)
        heat = recorded.heat(sae, int(index), step_of(step))
        scale = feature_summaries.scale_of(session, chosen)
        facts = feature_summaries.facts_of(session, [chosen]).get(chosen)
        examples = session.atlas.examples(chosen, "top")[:6] if facts and session.atlas is not None else []
        card = render("chosen_feature.html", name=chosen, facts=facts, examples=examples,
                      peak=float(heat.max()))  # fmt: skip
    stage = render("stage.html", image=recorded.image, heat=heat, scale=scale,
                   caption=recorded.recipe.prompt, hint=HINT)  # fmt: skip
    features = feature_summaries.strongest(session, recorded, step_of(step), rank == TELLING, chosen)
    return stage, features, card
