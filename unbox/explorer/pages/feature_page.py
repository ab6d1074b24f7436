"""Feature: everything known about one feature, with a permanent link."""

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from unbox.atlas import Facts, set_label
from unbox.edit import Edits
from unbox.errors import UnboxError
from unbox.explorer import feature_summaries, fragments, limits
from unbox.explorer.events import event_value, html_component, listen
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import InitialState, SharedComponents, link, progress_callback, select

TITLE = "Feature"
#: Strengths of the strip, in the block's deviations.
STRIP = (-4.0, -2.0, 0.0, 2.0, 4.0, 8.0)
#: Strength of the icon: the feature alone, in mean activations.
ICON = 4.0


@dataclass(frozen=True)
class Parts:
    """The page's components."""

    name: Any
    before: Any
    after: Any
    body: Any
    label: Any
    author: Any
    save: Any
    tries: Any
    stop: Any
    paint: Any
    prompt: Any
    seed: Any
    strip: Any
    interval: Any


def draw(session: ExplorerSession, initial: InitialState) -> Parts:
    """The page's components; call inside its tab."""
    hint = '<p class="ub-none">Name a feature, or choose one in Explore or Search.</p>'
    shown = page(session, initial.feature, None) if initial.feature else hint
    with gr.Row(elem_classes="ub-toolbar"):
        name = gr.Textbox(
            initial.feature,
            label="Feature",
            placeholder=f"{next(iter(session.saes), 'up.0.1')}/0",
            scale=2,
            max_length=100,
            elem_id="feature-name",
            min_width=130,
        )
        before = gr.Button("\u2190 Previous", elem_id="feature-before", scale=0, min_width=100)
        after = gr.Button("Next \u2192", elem_id="feature-after", scale=0, min_width=90)
        label = gr.Textbox(label="Your label", max_length=200, scale=3, elem_id="feature-label",
                           placeholder="what it means, in your words", min_width=160)  # fmt: skip
        author = gr.Textbox(label="Your name", max_length=80, scale=1, min_width=100,
                            elem_id="feature-author")  # fmt: skip
        save = gr.Button("Save label", elem_id="feature-save", scale=0, min_width=100)
    with gr.Row(elem_classes="ub-toolbar"):
        prompt = gr.Textbox(initial.recipe.prompt, label="Try its strength on", scale=6, max_length=2000,
                            elem_id="feature-prompt", min_width=200)  # fmt: skip
        seed = gr.Number(initial.recipe.seed, label="Seed", precision=0, minimum=0, maximum=limits.SEED,
                         scale=1, min_width=90)  # fmt: skip
        tries = gr.Button("Icon and strengths", variant="primary", elem_id="feature-try", scale=0,
                          min_width=150)  # fmt: skip
        stop = gr.Button("Stop", scale=0, min_width=70)
        paint = gr.Button("Paint with it", elem_id="feature-paint", scale=0, min_width=110)
    strip = html_component("", elem_id="feature-strip")
    body = html_component(shown, elem_id="feature-body")
    return Parts(name, before, after, body, label, author, save, tries, stop, paint, prompt, seed, strip,
                 gr.State(None))  # fmt: skip


def outputs(shared: SharedComponents) -> list[Any]:
    """The components that `opened` updates."""
    parts = shared.pages["feature"]
    return [shared.tabs, parts.name, parts.body, parts.label, parts.strip, parts.interval, shared.link]


def opened(session: ExplorerSession, name: str) -> tuple:
    """Everything that changes when a feature's page is opened; see `outputs`."""
    name = name.strip()
    body = page(session, name, None)
    facts = feature_summaries.facts_of(session, [name]).get(name)
    own = facts.label if facts and facts.author != "log-odds" else ""
    return select("feature"), name, body, own, "", None, link("feature", f=name)


def wire(shared: SharedComponents) -> None:
    """The page's events, and those of other pages that open a feature's page."""
    session, parts = shared.session, shared.pages["feature"]
    shown = outputs(shared)

    def from_click(event: gr.EventData) -> tuple:
        name = event_value(event, "open", str) or event_value(event, "feature", str)
        return opened(session, name) if name else (gr.skip(),) * len(shown)

    def from_card(event: gr.EventData) -> tuple:
        name = event_value(event, "open", str)
        return opened(session, name) if name else (gr.skip(),) * len(shown)

    def in_page(event: gr.EventData, name: str) -> tuple:
        interval = event_value(event, "interval", int)
        if interval is None:
            return from_click(event)
        return (
            *(gr.skip(),) * 2,
            page(session, name.strip(), interval),
            *(gr.skip(),) * 2,
            interval,
            gr.skip(),
        )

    shared.linked(listen(parts.name.submit, lambda name: opened(session, name), [parts.name], shown))
    for button, step in ((parts.before, -1), (parts.after, 1)):

        def walk(name: str, step: int = step) -> tuple:
            return opened(session, neighbour(session, name, step))

        shared.linked(listen(button.click, walk, [parts.name], shown, show_progress="hidden"))
    shared.linked(listen(parts.body.click, in_page, [parts.name], shown, show_progress="hidden"))
    shared.linked(listen(shared.pages["explore"].card.click, from_card, None, shown, show_progress="hidden"))
    shared.linked(
        listen(shared.pages["search"].results.click, from_click, None, shown, show_progress="hidden")
    )

    def relabel(name: str, label: str, author: str) -> str:
        if session.atlas is None:
            raise UnboxError("labels are kept in an atlas; start the explorer with one")
        set_label(session.atlas, name.strip(), label, author or "someone")
        gr.Info("Label saved.", duration=3)
        return page(session, name.strip(), None)

    listen(parts.save.click, relabel, [parts.name, parts.label, parts.author], [parts.body])

    def tried(
        name: str, prompt: str, seed: Any, request: gr.Request, progress: gr.Progress = gr.Progress()  # noqa: B008  # noqa: E501
    ) -> str:  # fmt: skip
        with shared.stop_switches.running(request) as stop:
            return strengths(session, name.strip(), prompt, limits.seed(seed), stop, progress)

    run = listen(parts.tries.click, tried, [parts.name, parts.prompt, parts.seed], [parts.strip], device=True)
    shared.stoppable(parts.stop, [run])


def neighbour(session: ExplorerSession, name: str, step: int) -> str:
    """The name of the feature before or after, round the ends of its SAE."""
    feature = session.feature(name)
    sae, _, index = name.strip().rpartition("/")
    return f"{sae}/{(int(index) + step) % session.saes[sae].latents}" if feature else name


def _by(facts: Facts) -> str:
    """Who says so."""
    if not facts.label:
        return ""
    return (
        f" \u00b7 label by {'its captions' if facts.author == 'log-odds' else fragments.escape(facts.author)}"
    )


def page(session: ExplorerSession, name: str, interval: int | None) -> str:
    """The body of a feature's page, `interval` of its histogram opened."""
    session.feature(name)
    atlas = session.atlas
    if atlas is None or name not in (found := feature_summaries.facts_of(session, [name])):
        title = f'<h2 class="ub-title">{fragments.escape(name)}</h2>'
        return title + '<p class="ub-none">No atlas knows this feature.</p>'
    facts = found[name]
    scale = facts.largest
    labels = "".join(
        f"<li><b>{fragments.escape(each.text)}</b> by {fragments.escape(each.author)}, {fragments.escape(each.made[:10])}"  # noqa: E501
        + (f", score {each.score:.2f}" if each.score is not None else "")
        + "</li>"
        for each in atlas.labels(name)
    )
    chosen = ""
    if interval is not None:
        low, high = scale * interval / atlas.intervals, scale * (interval + 1) / atlas.intervals
        chosen = fragments.gallery(
            "In this interval", f"random images with a peak of {low:.1f} to {high:.1f}",
            atlas.examples(name, "interval", interval), scale,
        )  # fmt: skip
    relations = "".join(
        fragments.related(title, note, rows, [feature_summaries.cover(session, r.facts.name) for r in rows])
        for title, note, rows in (
            ("Decoder neighbours", "cosine of directions", atlas.related(name, "neighbours")),
            ("Active together", "cosine of presence, same block", atlas.related(name, "coactive")),
            ("In other blocks", "active in the same places", atlas.related(name, "elsewhere")),
        )
    )
    return (
        f'<h2 class="ub-title">{fragments.escape(facts.label) or "<i>no label</i>"} '
        f"<small>{fragments.escape(name)}{_by(facts)}</small></h2>{fragments.words(atlas.words(name))}{fragments.figures(facts)}"
        '<div class="ub-columns">'
        f"<section><h4>Activations <small>choose an interval</small></h4>"
        f"{fragments.histogram(atlas.histogram(name), atlas.intervals, interval)}</section>"
        f"<section><h4>Over the steps</h4>{fragments.life(atlas.life(name))}</section>"
        f"<section><h4>In the image</h4>{fragments.positions(atlas.by_position(name))}"
        f"{fragments.branches(atlas.by_branch(name))}</section></div>{chosen}"
        '<div class="ub-columns ub-wide">'
        + fragments.gallery("Most active", "its top images", atlas.examples(name, "top")[:12], scale)
        + fragments.gallery(
            "Random", "images in which it fires at all", atlas.examples(name, "random"), scale
        )
        + "</div>"
        + fragments.gallery(
            "Silent", "though their captions are alike", atlas.examples(name, "decoys"), scale
        )
        + relations
        + f"<details><summary>Labels</summary><ul>{labels or '<li>none</li>'}</ul></details>"
    )


def strip(
    session: ExplorerSession, name: str, prompt: str, seed: int = 0, stop: Any = None, progress: Any = None
) -> tuple[Any, list[Any]]:
    """The feature's icon (it alone, on an empty prompt) and a picture for each strength of STRIP."""
    feature = session.feature(name)
    plain = Recipe.from_json({**session.defaults(session.default).to_json(), "prompt": prompt, "seed": seed})
    sae = feature.sae
    mean = float(sae.stats.mean_active[feature.index]) if sae.stats is not None else 0.0
    unit = {"unit": "mean"} if mean > 0 else {"unit": "deviation"}
    alone = feature.replace(ICON if mean > 0 else 1.0, **unit)
    recipes = [replace(plain, prompt="", edits=Edits((alone,)))]
    recipes += [
        replace(plain, edits=Edits((feature.add(v, unit="deviation"),)) if v else Edits()) for v in STRIP
    ]
    icon, *row = session.generate(recipes, stop, progress_callback(progress, plain.steps))
    return icon, row


def strengths(
    session: ExplorerSession, name: str, prompt: str, seed: int = 0, stop: Any = None, progress: Any = None
) -> str:
    """Icon and strip as HTML."""
    icon, row = strip(session, name, prompt, seed, stop, progress)
    names = ["unchanged" if v == 0 else f"{v:+g} deviations" for v in STRIP]
    body = "".join(fragments.picture(image, text) for image, text in zip(row, names, strict=True))
    return (
        '<section class="ub-gallery"><h4>Icon and strengths '
        f"<small>{fragments.escape(name)} added everywhere, one prompt and seed</small></h4>"
        f'<div class="ub-strip">{fragments.picture(icon, "alone, empty prompt", "ub-icon")}{body}</div></section>'  # noqa: E501
    )
