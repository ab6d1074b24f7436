"""Fragments of HTML. Every text that is not ours passes `escape`; every picture is a data URI.

Buttons carry what they ask for in `data-go`, a JSON object; the pages' script hands it to the server.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from unbox.atlas import Example, Facts, Histogram, Life, Related
from unbox.explorer.image_uris import file_uri, heat_uri, uri

#: A label whose held-out AUROC is under this says little; how it is marked.
WEAK = 0.6
WEAK_LABEL = ' class="ub-weak" title="a weak label: its words hardly foretell where the feature fires"'


def go(**asked: Any) -> str:
    """Attribute of a button that asks for something."""
    return f'data-go="{escape(json.dumps(asked))}"'


def stage(
    image: Image.Image | None, heat: np.ndarray | None = None, scale: float = 1.0, caption: str = "",
    hint: str = "",
) -> str:  # fmt: skip
    """The picture, enlarged, under a feature's map with an opacity slider; a click tells the place."""
    if image is None:
        return f'<div class="ub-stage ub-empty"><p>{escape(hint)}</p></div>'
    over = ""
    slider = ""
    if heat is not None:
        over = f'<img class="ub-heat" alt="where the feature is active" src="{heat_uri(heat, scale)}">'
        slider = (
            '<label class="ub-slider">heat <input type="range" min="0" max="100" value="75" data-opacity '
            'aria-label="opacity of the map"></label>'
            f'<span class="ub-scale" title="activation; the largest known">0<i></i>{scale:.3g}</span>'
        )
    return (
        f'<div class="ub-stage" data-place style="--ratio:{image.width}/{image.height}">'
        f'<img class="ub-picture" alt="{escape(caption)}" src="{uri(image)}">{over}</div>'
        f'<div class="ub-under">{slider}<span>{escape(hint)}</span></div>'
    )


def picture(image: Image.Image, caption: str = "", css: str = "") -> str:
    """A picture with a line under it."""
    return (
        f'<figure class="ub-figure {css}"><img alt="{escape(caption)}" src="{uri(image)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def slider(before: Image.Image, after: Image.Image) -> str:
    """Two pictures, the second uncovered by a slider."""
    return (
        f'<div class="ub-compare" style="--ratio:{before.width}/{before.height}">'
        f'<img alt="before" src="{uri(before)}"><img class="ub-after" alt="after" src="{uri(after)}">'
        '<span class="ub-edge"></span><span class="ub-tag">before</span><span class="ub-tag ub-right">after'
        "</span></div>"
        '<div class="ub-under"><label class="ub-slider">before <input type="range" min="0" max="100" '
        'value="50" data-cut aria-label="before and after"> after</label></div>'
    )


def named(label: str, score: float | None) -> str:
    """A label in bold, pale where its words hardly foretell in which images the feature fires."""
    if not label:
        return "<b><i>no label</i></b>"
    weak = score is not None and score < WEAK
    return f"<b{WEAK_LABEL if weak else ''}>{escape(label)}</b>"


def chip(
    name: str, label: str, strength: float, peak: float, cover: str, chosen: bool = False,
    score: float | None = None,
) -> str:  # fmt: skip
    """A feature in a list: thumbnail, label, name, and a bar for how strong it is."""
    width = 100 * min(1.0, strength / peak) if peak > 0 else 0
    shown = f'<img alt="" src="{cover}">' if cover else '<span class="ub-nocover"></span>'
    return (
        f'<button class="ub-chip{" ub-chosen" if chosen else ""}" {go(feature=name)} '
        f'aria-label="{escape(f"{name} {label}")}" title="{escape(label or name)}">{shown}'
        '<span class="ub-name">'
        f"{named(label, score)}<small>{escape(name)} \u00b7 {strength:.2g}</small>"
        f'<span class="ub-bar"><span style="width:{width:.0f}%"></span></span></span></button>'
    )


def chips(title: str, rows: Iterable[str], note: str = "") -> str:
    """Chips under a heading; nothing where there are none."""
    inside = "".join(rows)
    if not inside:
        return ""
    head = f"<h4>{escape(title)} <small>{escape(note)}</small></h4>"
    return f'<section class="ub-group">{head}<div class="ub-chips">{inside}</div></section>'


def example(found: Example, scale: float) -> str:
    """One image of the atlas under the feature's map."""
    shown = file_uri(found.thumbnail)
    heat = f'<img class="ub-heat" alt="" src="{heat_uri(found.heat, scale)}">' if found.heat.any() else ""
    peak = f"{found.peak:.2f}" if found.peak else "silent"
    base = f'<img class="ub-picture" alt="{escape(found.prompt)}" src="{shown}">' if shown else ""
    return (
        f'<figure class="ub-example" title="{escape(found.prompt)}"><div class="ub-thumb">{base}{heat}</div>'
        f"<figcaption><b>{peak}</b> {escape(found.prompt)}</figcaption></figure>"
    )


def gallery(title: str, note: str, found: Sequence[Example], scale: float) -> str:
    """Examples under a heading."""
    body = "".join(example(each, scale) for each in found) or "<p>none</p>"
    return (
        f'<section class="ub-gallery"><h4>{escape(title)} <small>{escape(note)}</small></h4>'
        f'<div class="ub-examples">{body}</div></section>'
    )


def figures(facts: Facts) -> str:
    """A feature's statistics, as a row of figures."""
    steps = (
        "never"
        if facts.first_step is None
        else f"{facts.first_step}\u2013{facts.last_step}, most at {facts.peak_step}"
    )
    cells = [
        ("places active", _percent(facts.density)),
        ("images active", _percent(facts.pictures)),
        ("mean where active", f"{facts.mean:.2f} \u00b1 {facts.std:.2f}"),
        ("largest", f"{facts.largest:.2f}"),
        ("steps", steps),
        ("label score (AUROC)", "\u2013" if facts.score is None else f"{facts.score:.2f}"),
    ]
    return (
        '<dl class="ub-figures">'
        + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in cells)
        + "</dl>"
    )


def histogram(found: Histogram, intervals: int, chosen: int | None) -> str:
    """Bars of the histogram (square root of the counts), in buttons that choose an interval of examples."""
    heights = np.sqrt(found.counts / max(int(found.counts.max()), 1))
    parts = np.array_split(np.arange(len(heights)), intervals)
    top = found.edges[-1]
    body = []
    for number, part in enumerate(parts):
        low, high = top * number / intervals, top * (number + 1) / intervals
        bars = "".join(
            f'<span style="height:{100 * heights[i]:.0f}%" title="{int(found.counts[i]):,} places"></span>'
            for i in part
        )
        text = f"activation {low:.2f} to {high:.2f}"
        body.append(
            f'<button class="ub-interval{" ub-chosen" if number == chosen else ""}" {go(interval=number)} '
            f'aria-label="examples of {text}" title="{text}"><span class="ub-bars">{bars}</span>'
            f"<small>{low:.1f}\u2013{high:.1f}</small></button>"
        )
    return '<div class="ub-histogram">' + "".join(body) + "</div>"


def life(found: Life) -> str:
    """Bars of where in the run a feature is active."""
    most = max(int(found.places.max(initial=0)), 1)
    bars = "".join(
        f'<div><span style="height:{100 * count / most:.0f}%" title="{int(count):,} places; first here in '
        f'{int(first):,} images, last here in {int(last):,}"></span><small>{step}</small></div>'
        for step, count, first, last in zip(found.steps, found.places, found.first, found.last, strict=True)
    )
    kept = ", ".join(f"{share:.0%}" for share in found.overlap)
    note = f"<p>places kept from a step to the next: {kept}</p>" if kept else ""
    return f'<div class="ub-life">{bars}</div>{note}'


def positions(shares: np.ndarray) -> str:
    """Where in the image a feature is active, as a small map."""
    return f'<img class="ub-map" alt="share of places" src="{heat_uri(shares, float(shares.max()))}">'


def branches(places: Mapping[str, int]) -> str:
    """Shares of a feature's places by branch; nothing where there is one branch."""
    total = max(sum(places.values()), 1)
    said = ", ".join(f"{escape(name)} {count / total:.0%}" for name, count in places.items())
    return f"<p>{said}</p>" if len(places) > 1 else ""


def related(title: str, note: str, found: Sequence[Related], covers: Sequence[str]) -> str:
    """Features that belong to another, as chips with their score."""
    rows = (
        chip(r.facts.name, r.facts.label, r.score, 1.0, cover, score=r.facts.score)
        for r, cover in zip(found, covers, strict=True)
    )
    return chips(title, rows, note)


def words(found: Sequence[tuple[str, float]]) -> str:
    """Words that set a feature's captions apart; larger where they stand out more."""
    if not found:
        return '<p class="ub-words">no caption word stands out</p>'
    most = found[0][1]
    body = " ".join(
        f'<span style="opacity:{0.45 + 0.55 * z / most:.2f}" title="z = {z:.1f}">{escape(term)}</span>'
        for term, z in found
    )
    return f'<p class="ub-words">{body}</p>'


def cards(found: Sequence[Facts], covers: Sequence[str], scores: Sequence[float] | None = None) -> str:
    """Search results."""
    if not found:
        return '<p class="ub-none">No feature fits. Try other words, or a wider range.</p>'
    body = "".join(
        f'<button class="ub-card" {go(feature=facts.name)}>'
        + (f'<img alt="" src="{cover}">' if cover else '<span class="ub-nocover"></span>')
        + f"<span>{named(facts.label, facts.score)}<small>{escape(facts.name)} \u00b7 "
        f"{_percent(facts.density)} of places</small>"
        + "<small>"
        + (f"likeness {scores[i]:.2f} " if scores is not None else "")
        + (f"label score {facts.score:.2f}" if facts.score is not None else "")
        + "</small></span></button>"
        for i, (facts, cover) in enumerate(zip(found, covers, strict=True))
    )
    return f'<div class="ub-cards">{body}</div>'


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A plain table; numbers are written to three places."""
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="ub-table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int):
        return f"{value:,}"
    return "\u2013" if value is None else escape(str(value))


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{share:.3%}"
