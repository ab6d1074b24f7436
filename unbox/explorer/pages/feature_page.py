"""Feature: everything known about one feature, with a permanent link."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import gradio as gr
import numpy as np
from gradio.blocks import Block

from unbox.atlas import Histogram, set_label
from unbox.atlas.query import RELATED
from unbox.errors import UnboxError
from unbox.explorer import feature_summaries, limits
from unbox.explorer.events import Updates, event_value, html_component, listen
from unbox.explorer.feature_effects import effects_html, measure_effects
from unbox.explorer.feature_scale import feature_scale
from unbox.explorer.feature_summaries import FeatureChip, direction_named, feature_chips, related_chips
from unbox.explorer.generation_controls import seed_box
from unbox.explorer.html import render
from unbox.explorer.pages.explore_page import ExplorePage
from unbox.explorer.pages.search_page import SearchPage
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import InitialState, SharedComponents, link
from unbox.explorer.strength_strip import generate_strip, strip_html
from unbox.validation import checked

TITLE = "Feature"
#: Images shown of those in which a feature is most active.
TOP = 12
#: Features of a factor that are shown.
PARTS = 48


@dataclass(frozen=True)
class FeaturePage:
    """The page's components."""

    name: gr.Textbox
    before: gr.Button
    after: gr.Button
    body: gr.HTML
    label: gr.Textbox
    author: gr.Textbox
    save: gr.Button
    try_strengths: gr.Button
    causes: gr.Button
    stop: gr.Button
    paint: gr.Button
    collect: gr.Button
    prompt: gr.Textbox
    seed: gr.Textbox
    strip: gr.HTML
    effects: gr.HTML
    interval: gr.State


class HistogramInterval(NamedTuple):
    """An interval of activations that has its own examples."""

    low: float
    high: float | None
    """None: all that is more, too."""
    bars: list[tuple[int, float]]
    """Count and height (0 to 1) of each bin."""

    @property
    def label(self) -> str:
        """What its button and its images are called by."""
        if self.high is None:
            return f"\u2265 {self.low:.1f}"
        return f"{self.low:.1f}\u2013{self.high:.1f}"


def draw(session: ExplorerSession, initial: InitialState) -> FeaturePage:
    """The page's components; call inside its tab."""
    hint = render("note.html", note="Name a feature, or choose one in Explore or Search.")
    shown = body(session, initial.feature, None) if initial.feature else hint
    with gr.Row(elem_classes="ub-toolbar"):
        name = gr.Textbox(initial.feature, label="Feature", scale=2, max_length=100, elem_id="feature-name",
                          placeholder=session.example_name, min_width=130)  # fmt: skip
        before = gr.Button("\u2190 Previous", elem_id="feature-before", scale=0, min_width=100)
        after = gr.Button("Next \u2192", elem_id="feature-after", scale=0, min_width=90)
        paint = gr.Button("Paint with it", elem_id="feature-paint", scale=0, min_width=110)
        keep = gr.Button("Collect", elem_id="feature-collect", scale=0, min_width=90)
    shown_body = html_component(shown, elem_id="feature-body")
    with gr.Row(elem_classes="ub-toolbar"):
        prompt = gr.Textbox(initial.recipe.prompt, label="Try its strength on", scale=6, max_length=2000,
                            elem_id="feature-prompt", min_width=200)  # fmt: skip
        seed = seed_box(initial.recipe.seed)
        try_strengths = gr.Button("Icon and strengths", variant="primary", elem_id="feature-try", scale=0,
                          min_width=150)  # fmt: skip
        causes = gr.Button("What it causes", elem_id="feature-causes", scale=0, min_width=150)
        stop = gr.Button("Stop", scale=0, min_width=70)
    strip = html_component("", elem_id="feature-strip")
    effects = html_component("", elem_id="feature-effects")
    with gr.Accordion("Edit the label", open=False, elem_id="feature-edit"):
        with gr.Row(elem_classes="ub-toolbar"):
            label = gr.Textbox(label="Your label", max_length=200, scale=3, elem_id="feature-label",
                               placeholder="what it means, in your words", min_width=160)  # fmt: skip
            author = gr.Textbox(label="Your name", max_length=80, scale=1, min_width=100,
                                elem_id="feature-author")  # fmt: skip
            save = gr.Button("Save label", elem_id="feature-save", scale=0, min_width=100)
    return FeaturePage(name, before, after, shown_body, label, author, save, try_strengths, causes, stop,
                       paint, keep, prompt, seed, strip, effects, gr.State(None))  # fmt: skip


def outputs(shared: SharedComponents, page: FeaturePage) -> list[Block]:
    """The components that `open_feature` updates."""
    return [shared.tabs, page.name, page.body, page.label, page.strip, page.effects, page.interval,
            shared.link]  # fmt: skip


def open_feature(shared: SharedComponents, page: FeaturePage, name: str) -> Updates:
    """Everything that changes when a feature's page is opened."""
    session, name = shared.session, checked(limits.Line, "feature", name)
    shown = body(session, name, None)
    facts = feature_summaries.facts_of(session, [name]).get(name)
    return {
        shared.tabs: gr.Tabs(selected="feature"),
        page.name: name,
        page.body: shown,
        page.label: facts.label if facts and facts.author != "log-odds" else "",
        page.strip: "",
        page.effects: "",
        page.interval: None,
        shared.link: link("feature", f=name),
    }


def opening(shared: SharedComponents, page: FeaturePage, key: str) -> Callable[[gr.EventData], Updates]:
    """Opens the feature that a click names under `key`."""

    def open_named(event: gr.EventData) -> Updates:
        name = event_value(event, key, str)
        return open_feature(shared, page, name) if name else gr.skip()

    return open_named


def wire(shared: SharedComponents, page: FeaturePage, explore: ExplorePage, search: SearchPage) -> None:
    """The page's events, and those of other pages that open a feature's page."""
    session, shown = shared.session, outputs(shared, page)
    open_clicked = partial(opening, shared, page)

    def in_page(event: gr.EventData, name: str) -> Updates:
        interval = event_value(event, "interval", int)
        if interval is None:
            return open_clicked("feature")(event)
        name = checked(limits.Line, "feature", name)
        return {page.body: body(session, name, interval), page.interval: interval}

    def step_to(name: str, step: int) -> Updates:
        """The feature before or after, round the ends of its SAE."""
        session.feature(name)
        sae, _, index = checked(limits.Line, "feature", name).rpartition("/")
        return open_feature(shared, page, f"{sae}/{(int(index) + step) % session.dictionaries[sae].latents}")

    shared.show_link(listen(page.name.submit, partial(open_feature, shared, page), [page.name], shown))
    for event, opened, inputs in (
        (page.body.click, in_page, [page.name]), (explore.card.click, open_clicked("open"), None),
        (search.results.click, open_clicked("feature"), None),
        (page.before.click, partial(step_to, step=-1), [page.name]),
        (page.after.click, partial(step_to, step=1), [page.name]),
    ):  # fmt: skip
        shared.show_link(listen(event, opened, inputs, shown, show_progress="hidden"))

    def relabel(name: str, label: str, author: str) -> str:
        if session.atlas is None:
            raise UnboxError("labels are kept in an atlas; start the explorer with one")
        given = {"feature": name, "label": label, "author": author or "someone"}
        name, label, author = (checked(limits.Line, field, each) for field, each in given.items())
        set_label(session.atlas, name, label, author)
        gr.Info("Label saved.", duration=3)
        return body(session, name, None)

    listen(page.save.click, relabel, [page.name, page.label, page.author], [page.body])

    def make_strip(name: str, prompt: str, seed: str) -> str:
        name = checked(limits.Line, "feature", name)
        return strip_html(
            name, generate_strip(session, name, prompt, checked(limits.TypedSeed, "seed", seed))
        )

    asked = (page.name, page.prompt, page.seed)
    run = listen(page.try_strengths.click, make_strip, asked, [page.strip], device=True)

    def show_effects(name: str) -> str:
        name = checked(limits.Line, "feature", name)
        return effects_html(name, measure_effects(session, name))

    measured = listen(page.causes.click, show_effects, [page.name], [page.effects], device=True)
    page.stop.click(None, cancels=[run, measured], api_visibility="private")
    page.collect.click(None, page.name, None, js="(name) => window.unboxCollection.add(name)",
                       api_visibility="private", show_progress="hidden")  # fmt: skip


def body(session: ExplorerSession, name: str, interval: int | None) -> str:
    """The body of a feature's page, `interval` of its histogram opened."""
    session.feature(name)
    atlas, facts = session.atlas, feature_summaries.facts_of(session, [name]).get(name)
    direction, parts = direction_named(session, name), made_of(session, name)
    if atlas is None or facts is None:
        if direction is None:
            return render("note.html", title=name, note="No atlas knows this feature.")
        return render("direction.html", name=name, direction=direction, parts=parts,
                          scale=feature_scale(session, name).origin)  # fmt: skip
    life, branches, labels = atlas.life(name), atlas.by_branch(name), atlas.labels(name)
    examples = {kind: atlas.examples(name, kind) for kind in ("top", "random", "decoys")}
    if interval is not None:
        examples["interval"] = atlas.examples(name, "interval", interval)
    return render(
        "feature.html",
        facts=facts,
        direction=direction,
        parts=parts,
        words=atlas.words(name),
        intervals=histogram_intervals(atlas.histogram(name), atlas.intervals, facts.largest),
        chosen=interval,
        life=list(zip(life.steps, life.places, life.first, life.last, strict=True)),
        most_places=max(int(life.places.max(initial=0)), 1),
        overlap=list(life.overlap),
        positions=atlas.by_position(name),
        branches={key: count / max(sum(branches.values()), 1) for key, count in branches.items()},
        examples=examples | {"top": examples["top"][:TOP]},
        related={kind: related_chips(session, atlas.related(name, kind)) for kind in RELATED},
        labels=labels,
        own=next((each for each in labels if (each.text, each.author) == (facts.label, facts.author)), None),
        captions=next((each for each in labels if each.author == "log-odds"), None),
    )


def made_of(session: ExplorerSession, name: str) -> list[FeatureChip]:
    """The features that a factor is made of, by weight, those that are here: at most `PARTS`."""
    direction = direction_named(session, name)
    parts = {} if direction is None else direction.parts
    here = [(part, float(w)) for part, w in parts.items() if session.has_feature(part)]
    return feature_chips(session, sorted(here, key=lambda each: -each[1])[:PARTS])


def histogram_intervals(found: Histogram, intervals: int, largest: float) -> list[HistogramInterval]:
    """The bins of a histogram in intervals, bars as high as the square root of their counts. The last has
    all that is more than the histogram's end, too, where the `largest` activation is."""
    heights = np.sqrt(found.counts / max(int(found.counts.max()), 1))
    bins = np.array_split(np.arange(len(heights)), intervals)
    width = found.edges[-1] / intervals
    ends = [width * (i + 1) for i in range(intervals)]
    highs = [*ends[:-1], ends[-1] if largest <= ends[-1] else None]
    return [
        HistogramInterval(width * i, high, [(int(found.counts[j]), heights[j]) for j in part])
        for i, (high, part) in enumerate(zip(highs, bins, strict=True))
    ]
