"""Search: features by words, by meaning, by statistics, by index."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from unbox.atlas import Filter
from unbox.atlas.database import ORDERS
from unbox.errors import UnboxError
from unbox.explorer import feature_summaries, fragments, limits
from unbox.explorer.events import html_component, listen
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import SharedComponents, link

TITLE = "Search"
WORDS, MEANING = "words", "meaning"
ANY, BEST = "any", "best match"
#: Most results shown.
RESULTS = 60
#: Bounds of the density sliders, in powers of ten.
DENSITY = (-6.0, 0.0)


@dataclass(frozen=True)
class Asked:
    """A search, in the order of the page's components. A link holds what differs from these defaults."""

    q: str = ""
    by: str = WORDS
    block: str = ANY
    step: str = ANY
    low: float = DENSITY[0]
    high: float = DENSITY[1]
    labelled: bool = False
    order: str = BEST

    def query(self) -> dict[str, str]:
        """What a link says of it."""
        plain = Asked()
        changed = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: str(v) for k, v in changed.items() if k == "q" or v != getattr(plain, k)}

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Asked":
        """Inverse of `query`; a number that is none stays at its default."""
        said = {f.name: query[f.name] for f in fields(cls) if query.get(f.name)}
        values: dict[str, Any] = {k: v for k, v in said.items() if k not in ("low", "high", "labelled")}
        for bound in ("low", "high"):
            try:
                values[bound] = limits.number("density", float(said.get(bound, "nan")), *DENSITY)
            except (ValueError, UnboxError):
                continue
        return cls(**values, labelled=said.get("labelled") == "True")


@dataclass(frozen=True)
class Parts:
    """The page's components."""

    asked: tuple[Any, ...]
    """One for each field of `Asked`."""
    find: Any
    results: Any


def draw(session: ExplorerSession) -> Parts:
    """The page's components; call inside its tab."""
    blocks = [ANY, *(session.atlas.blocks if session.atlas else ())]
    steps = [ANY, *(map(str, session.atlas.steps) if session.atlas else ())]
    with gr.Row(elem_classes="ub-toolbar"):
        words = gr.Textbox(label="Search features", placeholder="red, left of, up.0.1/17, 17 \u2026", scale=4,
                           max_length=300, elem_id="search-words", min_width=200)  # fmt: skip
        by = gr.Radio([WORDS, MEANING], value=WORDS, label="By", min_width=200, scale=1)
        find = gr.Button("Search", variant="primary", elem_id="search-find", scale=0, min_width=110)
    with gr.Row(elem_classes="ub-toolbar"):
        block = gr.Dropdown(blocks, value=ANY, label="Block", min_width=110)
        step = gr.Dropdown(steps, value=ANY, label="Most active at step", min_width=110)
        low = gr.Slider(*DENSITY, DENSITY[0], step=0.1, label="Least density, log10", min_width=150)
        high = gr.Slider(*DENSITY, DENSITY[1], step=0.1, label="Largest density, log10", min_width=150)
        order = gr.Dropdown([BEST, *ORDERS], value=BEST, label="Order", min_width=120)
        labelled = gr.Checkbox(False, label="Labelled only", min_width=110, container=False,
                               elem_classes="ub-check")  # fmt: skip
    first = "" if session.atlas is None else results(session, Asked(labelled=True, order="label score"))
    note = '<p class="ub-none">The features whose labels foretell best where they fire.</p>' if first else ""
    return Parts((words, by, block, step, low, high, labelled, order), find,
                 html_component(note + first, elem_id="search-results"))  # fmt: skip


def outputs(shared: SharedComponents) -> list[Any]:
    """The components that `found` updates."""
    parts = shared.pages["search"]
    return [*parts.asked, parts.results, shared.link]


def found(session: ExplorerSession, asked: Asked) -> tuple[Any, ...]:
    """The page with a search done."""
    return *vars(asked).values(), results(session, asked), link("search", **asked.query())


def wire(shared: SharedComponents) -> None:
    """The page's events."""
    session, parts = shared.session, shared.pages["search"]

    def search(*values: Any) -> tuple[str, str]:
        asked = Asked(str(values[0] or ""), *values[1:])
        return results(session, asked), link("search", **asked.query())

    for event in (parts.find.click, parts.asked[0].submit):
        shared.linked(listen(event, search, list(parts.asked), [parts.results, shared.link]))


def results(session: ExplorerSession, asked: Asked) -> str:
    """Results as HTML. Raises UnboxError for a search that cannot be."""
    if session.atlas is None:
        raise UnboxError("search needs an atlas: build one with `unbox atlas` and start with --atlas")
    words = limits.text("the search", asked.q, 300)
    if asked.step != ANY and not (asked.step.isascii() and asked.step.isdigit()):
        raise UnboxError(f"no step '{asked.step[:20]}'; there are {', '.join(map(str, session.atlas.steps))}")
    among = Filter(
        block=None if asked.block == ANY else asked.block,
        step=None if asked.step == ANY else int(asked.step[:9]),
        density=None if (asked.low, asked.high) == DENSITY else (10.0**asked.low, 10.0**asked.high),
        labelled=bool(asked.labelled),
    )
    if asked.by == MEANING:
        if not words:
            raise UnboxError("say what to look for: a word, or a whole caption")
        near = session.atlas.meaning(session.model(session.default), words, among, limit=RESULTS)
        return _cards(session, [each.facts for each in near], [each.score for each in near])
    order = None if asked.order == BEST else asked.order
    return _cards(session, session.atlas.search(words, among, order=order, limit=RESULTS))


def _cards(session: ExplorerSession, facts: list[Any], scores: list[float] | None = None) -> str:
    return fragments.cards(facts, [feature_summaries.cover(session, each.name) for each in facts], scores)
