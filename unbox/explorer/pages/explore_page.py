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
from unbox.explorer.limits import Fraction, step_of
from unbox.explorer.recorded_image import RecordedImage
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import InitialState, SharedComponents, link
from unbox.validation import checked

TITLE = "Explore"
HINT = "Click a feature to see where it fires; click the picture to see what fires there."
ALL = "all"
TELLING, STRONG = "most telling", "strongest"


#: A place that was clicked, (x, y) in fractions of the picture, or none.
Spot = tuple[float, float] | None


class View(NamedTuple):
    """What a page shows of a picture: a step or all, an order of features, a feature and a place chosen, or
    none."""

    step: str = ALL
    rank: str = TELLING
    chosen: str = ""
    spot: Spot = None

    @property
    def telling(self) -> bool:
        """Whether rare features count for more."""
        return self.rank == TELLING


#: What is shown of a first picture.
FIRST = View()


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
    spot: gr.State
    """The place that was clicked, (x, y) in fractions of the picture, or None."""

    @property
    def views(self) -> list[Block]:
        """The components of what `show` answers."""
        return [self.stage, self.features, self.card]

    @property
    def view(self) -> list[Block]:
        """What is looked at, in the order of `View`."""
        return [self.step, self.rank, self.chosen, self.spot]


def draw(session: ExplorerSession, initial: InitialState, examples: Sequence[str]) -> ExplorePage:
    """The page's components; call inside its tab."""
    recorded = initial.recorded
    stage_html: str = render("stage.html", image=None, hint="The picture appears here.")
    features_html: str = render("note.html", note="Features appear here after the first picture.")
    if recorded is not None:
        stage_html, features_html, _ = show(session, recorded, FIRST)
    controls = generation_controls.draw(session, initial.recipe, "explore")
    with gr.Row(elem_classes="ub-toolbar"):
        make = gr.Button("Generate", variant="primary", elem_id="explore-make", scale=0, min_width=120)
        stop = gr.Button("Stop", elem_id="explore-stop", scale=0, min_width=70)
        paint = gr.Button("Paint on it", elem_id="explore-paint", scale=0, min_width=110)
        ideas = html_component(render("prompts_to_try.html", prompts=examples), elem_id="explore-ideas")
    with gr.Row(elem_classes="ub-page"):
        with gr.Column(scale=4, min_width=320, elem_id="explore-picture"):
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
                       gr.State(recorded, time_to_live=3600), gr.State(""), gr.State(None))  # fmt: skip


def outputs(shared: SharedComponents, page: ExplorePage) -> list[Block]:
    """The components that `make_image` updates."""
    return [page.recorded, page.chosen, page.spot, page.stage, page.step, page.features, page.place,
            page.card, shared.link]  # fmt: skip


def wire(shared: SharedComponents, page: ExplorePage) -> None:
    """Generate, stop, prompts to try; what a feature, a step, an order or a place that is chosen shows."""
    session, controls = shared.session, page.controls

    def make(step: str, rank: str, chosen: str, spot: Spot, *values: FieldValue) -> Updates:
        return make_image(shared, page, controls.recipe(values), View(step, rank, chosen, spot))

    def prompt_of(event: gr.EventData) -> str:
        return event_value(event, "prompt", str) or ""

    picked = listen(page.examples.click, prompt_of, None, [controls.prompt], show_progress="hidden")
    inputs, made = [*page.view, *controls.components], outputs(shared, page)
    events = (page.make.click, controls.prompt.submit, picked.then)
    shared.wire_runs(
        [listen(event, make, inputs, made, device=True, progress_on=page.stage) for event in events],
        page.stop,
    )
    view, shown = [page.recorded, *page.view], [page.chosen, page.spot, page.place, *page.views]

    def choose(
        event: gr.EventData, recorded: RecordedImage | None, step: str, rank: str, chosen: str, spot: Spot
    ) -> Updates:
        """A feature that is chosen; chosen once more, none is. Or the place that was clicked is let go."""
        name, close = event_value(event, "feature", str), event_value(event, "close", int)
        new = View(step, rank, "" if name == chosen else name or chosen, None if close else spot)
        views = dict(zip(page.views, show(session, recorded, new), strict=True))
        return views | {page.chosen: new.chosen} | ({page.spot: None, page.place: ""} if close else {})

    def change_view(recorded: RecordedImage | None, step: str, rank: str, chosen: str, spot: Spot) -> Updates:
        new = View(step, rank, chosen, spot)
        views = show(session, recorded, new)
        return {page.place: at_spot(session, recorded, new), **dict(zip(page.views, views, strict=True))}

    def show_place(
        event: gr.EventData, recorded: RecordedImage | None, step: str, rank: str, chosen: str, _: Spot
    ) -> Updates:
        x, y = (checked(Fraction, name, event_value(event, name, float)) for name in ("x", "y"))
        new = View(step, rank, chosen, (x, y))
        stage = show(session, recorded, new)[0]
        return {page.spot: new.spot, page.place: at_spot(session, recorded, new), page.stage: stage}

    for source in (page.features, page.place):
        listen(source.click, choose, view, shown, show_progress="hidden")
    for control in (page.step, page.rank):
        listen(control.input, change_view, view, [page.place, *page.views], show_progress="hidden")
    listen(page.stage.select, show_place, view, [page.spot, page.place, page.stage], show_progress="hidden")


def at_spot(session: ExplorerSession, recorded: RecordedImage | None, view: View) -> str:
    """What fires at the place that was clicked, at the step that is looked at; empty without either."""
    if recorded is None or view.spot is None:
        return ""
    return feature_summaries.at_place(session, recorded, *view.spot, step_of(view.step), view.telling)


def make_image(shared: SharedComponents, page: ExplorePage, recipe: Recipe, view: View = FIRST) -> Updates:
    """Make the picture of a recipe and everything that the page shows of it: the order of features and the
    feature that is chosen stay, and the step where the picture has it."""
    recorded = shared.session.record(recipe)
    steps = [ALL, *map(str, recorded.steps)]
    view = view._replace(step=view.step if view.step in steps else ALL, spot=None)
    views = show(shared.session, recorded, view)
    return {
        page.recorded: recorded,
        page.chosen: view.chosen,
        page.spot: None,
        page.step: gr.Radio(steps, value=view.step),
        page.place: "",
        shared.link: link("explore", r=recipe.to_link()),
        **dict(zip(page.views, views, strict=True)),
    }


def show(session: ExplorerSession, recorded: RecordedImage | None, view: View) -> tuple[str, str, str]:
    """The HTML of the stage, the features and the card for a picture, with a feature chosen or none. Raises
    UnboxError without a picture."""
    if recorded is None:
        raise UnboxError("make a picture first")
    heat, scale, card = None, 1.0, ""
    chosen, step = view.chosen, step_of(view.step)
    sae, _, index = chosen.rpartition("/")
    if chosen and sae in recorded.values:
        session.feature(chosen)
        heat = recorded.heat(sae, int(index), step)
        scale = feature_summaries.scale_of(session, chosen)
        facts = feature_summaries.facts_of(session, [chosen]).get(chosen)
        examples = session.atlas.examples(chosen, "top")[:6] if facts and session.atlas is not None else []
        card = render("chosen_feature.html", name=chosen, facts=facts, examples=examples,
                      peak=float(heat.max()))  # fmt: skip
    stage = render("stage.html", image=recorded.image, heat=heat, scale=scale, spot=view.spot,
                   caption=recorded.recipe.prompt, hint=HINT)  # fmt: skip
    features = feature_summaries.strongest(session, recorded, step, view.telling, chosen)
    return stage, features, card
