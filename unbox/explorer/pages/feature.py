"""Feature: everything known about one feature, with a permanent link."""

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from unbox.atlas import set_label
from unbox.explorer import seen, views
from unbox.explorer.lab import Lab
from unbox.explorer.parts import Shell, link, select
from unbox.explorer.recipe import Recipe
from unbox.explorer.shell import asked, live, on
from unbox.words import Edits, UnboxError

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
    prompt: Any
    strip: Any
    interval: Any


def draw(lab: Lab, first: Recipe) -> Parts:
    """The page's components; call inside its tab."""
    with gr.Row(elem_classes="ub-toolbar"):
        name = gr.Textbox(label="Feature", placeholder=f"{next(iter(lab.saes), 'up.0.1')}/0", scale=3,
                          max_length=100, elem_id="feature-name", min_width=160)  # fmt: skip
        before = gr.Button("\u2190 Previous", elem_id="feature-before", min_width=90)
        after = gr.Button("Next \u2192", elem_id="feature-after", min_width=90)
    body = live(
        '<p class="ub-none">Name a feature, or choose one in Explore or Search.</p>', elem_id="feature-body"
    )
    with gr.Row(elem_classes="ub-toolbar"):
        label = gr.Textbox(
            label="Your label", max_length=200, scale=3, elem_id="feature-label", min_width=160
        )
        author = gr.Textbox(
            label="Your name", max_length=80, scale=1, min_width=100, elem_id="feature-author"
        )
        save = gr.Button("Save label", elem_id="feature-save", min_width=100)
    with gr.Row(elem_classes="ub-toolbar"):
        prompt = gr.Textbox(
            first.prompt, label="Try its strength on", scale=3, max_length=2000, min_width=160
        )
        tries = gr.Button("Icon and strengths", variant="primary", elem_id="feature-try", min_width=140)
    strip = live("", elem_id="feature-strip")
    return Parts(name, before, after, body, label, author, save, tries, prompt, strip, gr.State(None))


def outputs(shell: Shell) -> list[Any]:
    """The components that `opened` updates."""
    parts = shell.pages["feature"]
    return [shell.tabs, parts.name, parts.body, parts.label, parts.strip, parts.interval, shell.link]


def opened(lab: Lab, name: str) -> tuple:
    """Everything that changes when a feature's page is opened; see `outputs`."""
    name = name.strip()
    body = page(lab, name, None)
    facts = seen.facts_of(lab, [name]).get(name)
    own = facts.label if facts and facts.author != "log-odds" else ""
    return select("feature"), name, body, own, "", None, link("feature", f=name)


def wire(shell: Shell) -> None:
    """The page's events, and those of other pages that open a feature's page."""
    lab, parts = shell.lab, shell.pages["feature"]
    shown = outputs(shell)

    def from_click(event: gr.EventData) -> tuple:
        name = asked(event, "open", str) or asked(event, "feature", str)
        return opened(lab, name) if name else (gr.skip(),) * len(shown)

    def from_card(event: gr.EventData) -> tuple:
        name = asked(event, "open", str)
        return opened(lab, name) if name else (gr.skip(),) * len(shown)

    def in_page(event: gr.EventData, name: str) -> tuple:
        interval = asked(event, "interval", int)
        if interval is None:
            return from_click(event)
        return (*(gr.skip(),) * 2, page(lab, name.strip(), interval), *(gr.skip(),) * 2, interval, gr.skip())

    shell.linked(on(parts.name.submit, lambda name: opened(lab, name), [parts.name], shown))
    for button, step in ((parts.before, -1), (parts.after, 1)):

        def walk(name: str, step: int = step) -> tuple:
            return opened(lab, neighbour(lab, name, step))

        shell.linked(on(button.click, walk, [parts.name], shown, show_progress="hidden"))
    shell.linked(on(parts.body.click, in_page, [parts.name], shown, show_progress="hidden"))
    shell.linked(on(shell.pages["explore"].card.click, from_card, None, shown, show_progress="hidden"))
    shell.linked(on(shell.pages["search"].results.click, from_click, None, shown, show_progress="hidden"))

    def relabel(name: str, label: str, author: str) -> str:
        if lab.atlas is None:
            raise UnboxError("labels are kept in an atlas; start the explorer with one")
        set_label(lab.atlas, name.strip(), label, author or "someone")
        gr.Info("Label saved.", duration=3)
        return page(lab, name.strip(), None)

    on(parts.save.click, relabel, [parts.name, parts.label, parts.author], [parts.body])

    def tried(name: str, prompt: str, request: gr.Request) -> str:
        with shell.stops.running(request) as stop:
            return strengths(lab, name.strip(), prompt, stop)

    on(parts.tries.click, tried, [parts.name, parts.prompt], [parts.strip], device=True)


def neighbour(lab: Lab, name: str, step: int) -> str:
    """The name of the feature before or after, round the ends of its SAE."""
    feature = lab.feature(name)
    sae, _, index = name.strip().rpartition("/")
    return f"{sae}/{(int(index) + step) % lab.saes[sae].latents}" if feature else name


def page(lab: Lab, name: str, interval: int | None) -> str:
    """The body of a feature's page, `interval` of its histogram opened."""
    lab.feature(name)
    atlas = lab.atlas
    if atlas is None or name not in (found := seen.facts_of(lab, [name])):
        title = f'<h2 class="ub-title">{views.escape(name)}</h2>'
        return title + '<p class="ub-none">No atlas knows this feature.</p>'
    facts = found[name]
    scale = facts.largest
    labels = "".join(
        f"<li><b>{views.escape(each.text)}</b> by {views.escape(each.author)}, {views.escape(each.made[:10])}"
        + (f", score {each.score:.2f}" if each.score is not None else "")
        + "</li>"
        for each in atlas.labels(name)
    )
    chosen = ""
    if interval is not None:
        low, high = scale * interval / atlas.intervals, scale * (interval + 1) / atlas.intervals
        chosen = views.gallery(
            "In this interval", f"random images with a peak of {low:.1f} to {high:.1f}",
            atlas.examples(name, "interval", interval), scale,
        )  # fmt: skip
    relations = "".join(
        views.related(title, note, rows, [seen.cover(lab, r.facts.name) for r in rows])
        for title, note, rows in (
            ("Decoder neighbours", "cosine of directions", atlas.related(name, "neighbours")),
            ("Active together", "cosine of presence, same block", atlas.related(name, "coactive")),
            ("In other blocks", "active in the same places", atlas.related(name, "elsewhere")),
        )
    )
    return (
        f'<h2 class="ub-title">{views.escape(facts.label) or "<i>no label</i>"} '
        f"<small>{views.escape(name)}</small></h2>{views.words(atlas.words(name))}{views.figures(facts)}"
        '<div class="ub-columns">'
        f"<section><h4>Activations <small>choose an interval</small></h4>"
        f"{views.histogram(atlas.histogram(name), atlas.intervals, interval)}</section>"
        f"<section><h4>Over the steps</h4>{views.life(atlas.life(name))}</section>"
        f"<section><h4>In the image</h4>{views.positions(atlas.by_position(name))}</section></div>{chosen}"
        '<div class="ub-columns ub-wide">'
        + views.gallery("Most active", "its top images", atlas.examples(name, "top")[:12], scale)
        + views.gallery("Random", "images in which it fires at all", atlas.examples(name, "random"), scale)
        + "</div>"
        + views.gallery("Silent", "though their captions are alike", atlas.examples(name, "decoys"), scale)
        + relations
        + f"<details><summary>Labels</summary><ul>{labels or '<li>none</li>'}</ul></details>"
    )


def strengths(lab: Lab, name: str, prompt: str, stop: Any = None) -> str:
    """The feature's icon (it alone, on an empty prompt) and a picture at several strengths, as HTML."""
    feature = lab.feature(name)
    base = next((s for s in lab.systems[:1] if name.rpartition("/")[0] in lab.fitting(s)), lab.default)
    plain = Recipe.from_json({**lab.defaults(base).to_json(), "prompt": prompt})
    sae = feature.sae
    mean = float(sae.stats.mean_active[feature.index]) if sae.stats is not None else 0.0
    unit = {"unit": "mean"} if mean > 0 else {"unit": "deviation"}
    alone = feature.replace(ICON if mean > 0 else 1.0, **unit)
    recipes = [replace(plain, prompt="", edits=Edits((alone,)))]
    recipes += [
        replace(plain, edits=Edits((feature.add(v, unit="deviation"),)) if v else Edits()) for v in STRIP
    ]
    icon, *row = lab.generate(recipes, stop)
    names = ["unchanged" if v == 0 else f"{v:+g} deviations" for v in STRIP]
    body = "".join(views.picture(image, text) for image, text in zip(row, names, strict=True))
    return (
        f'<section class="ub-gallery"><h4>Icon and strengths <small>one prompt and seed</small></h4>'
        f'<div class="ub-strip">{views.picture(icon, "alone, empty prompt", "ub-icon")}{body}</div></section>'
    )
