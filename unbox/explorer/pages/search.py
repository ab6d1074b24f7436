"""Search: features by words, by meaning, by statistics, by index."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from unbox.atlas.atlas import ORDERS
from unbox.explorer import seen, views
from unbox.explorer.lab import Lab
from unbox.explorer.limits import text
from unbox.explorer.parts import Shell, link
from unbox.explorer.shell import live, on
from unbox.words import UnboxError

TITLE = "Search"
WORDS, MEANING = "words", "meaning"
ANY, BEST = "any", "best match"
#: Most results shown.
RESULTS = 60
#: Bounds of the density sliders, in powers of ten.
DENSITY = (-6.0, 0.0)


@dataclass(frozen=True)
class Parts:
    """The page's components."""

    words: Any
    mode: Any
    block: Any
    step: Any
    low: Any
    high: Any
    labelled: Any
    order: Any
    find: Any
    results: Any


def draw(lab: Lab) -> Parts:
    """The page's components; call inside its tab."""
    blocks = [ANY, *(lab.atlas.blocks if lab.atlas else ())]
    steps = [ANY, *(map(str, lab.atlas.steps) if lab.atlas else ())]
    with gr.Row(elem_classes="ub-toolbar"):
        words = gr.Textbox(label="Search features", placeholder="red, left of, up.0.1/17 \u2026", scale=4,
                           max_length=300, elem_id="search-words", min_width=200)  # fmt: skip
        mode = gr.Radio([WORDS, MEANING], value=WORDS, label="By", min_width=150)
        find = gr.Button("Search", variant="primary", elem_id="search-find", min_width=90)
    with gr.Row(elem_classes="ub-toolbar"):
        block = gr.Dropdown(blocks, value=ANY, label="Block", min_width=110)
        step = gr.Dropdown(steps, value=ANY, label="Most active at step", min_width=110)
        low = gr.Slider(*DENSITY, DENSITY[0], step=0.1, label="Density from 10^", min_width=140)
        high = gr.Slider(*DENSITY, DENSITY[1], step=0.1, label="to 10^", min_width=140)
        order = gr.Dropdown([BEST, *ORDERS], value=BEST, label="Order", min_width=120)
        labelled = gr.Checkbox(False, label="Labelled only", min_width=110)
    results = live(elem_id="search-results")
    return Parts(words, mode, block, step, low, high, labelled, order, find, results)


def wire(shell: Shell) -> None:
    """The page's events."""
    lab, parts = shell.lab, shell.pages["search"]
    inputs = [
        parts.words,
        parts.mode,
        parts.block,
        parts.step,
        parts.low,
        parts.high,
        parts.labelled,
        parts.order,
    ]

    def search(*values: Any) -> tuple[str, str]:
        return find(lab, *values), link("search", q=str(values[0] or ""))

    for event in (parts.find.click, parts.words.submit):
        shell.linked(on(event, search, inputs, [parts.results, shell.link], concurrency_limit=8))


def find(
    lab: Lab, words: str, mode: str = WORDS, block: str = ANY, step: str = ANY, low: float = DENSITY[0],
    high: float = DENSITY[1], labelled: bool = False, order: str = BEST,
) -> str:  # fmt: skip
    """Results as HTML."""
    if lab.atlas is None:
        raise UnboxError("search needs an atlas: build one with `unbox atlas` and start with --atlas")
    asked = text("the search", words or "", 300)
    where = None if block == ANY else block
    if mode == MEANING:
        if not asked:
            raise UnboxError("say what to look for: a word, or a whole caption")
        found = lab.atlas.meaning(lab.model(lab.default), asked, RESULTS, where)
        facts = [each.facts for each in found]
        return views.cards(facts, [seen.cover(lab, f.name) for f in facts], [each.score for each in found])
    facts = lab.atlas.search(
        asked,
        block=where,
        density=None if (low, high) == DENSITY else (10.0**low, 10.0**high),
        step=None if step == ANY else int(step),
        labelled=bool(labelled),
        order=None if order == BEST else order,
        limit=RESULTS,
    )
    return views.cards(facts, [seen.cover(lab, f.name) for f in facts])
