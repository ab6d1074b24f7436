"""Search: features by words, by meaning, by statistics, by index."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

import gradio as gr
from gradio.blocks import Block

from unbox.atlas import Facts, Filter
from unbox.atlas.database import ORDERS
from unbox.errors import UnboxError
from unbox.explorer import feature_summaries, limits
from unbox.explorer.events import Updates, html_component, listen
from unbox.explorer.html import render
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
class SearchQuery:
    """A search. A link holds what differs from these defaults."""

    q: str = ""
    by: str = WORDS
    block: str = ANY
    step: str = ANY
    low: float = DENSITY[0]
    high: float = DENSITY[1]
    labelled: bool = False
    order: str = BEST

    def to_link(self) -> dict[str, str]:
        """The parameters of a link."""
        default = asdict(SearchQuery())
        return {k: str(v) for k, v in asdict(self).items() if k == "q" or v != default[k]}

    @classmethod
    def from_link(cls, parameters: Mapping[str, str]) -> Self:
        """Inverse of `to_link`; a number that is none stays at its default."""
        default = cls()
        text = {k: parameters.get(k) or getattr(default, k) for k in ("q", "by", "block", "step", "order")}
        low, high = (_density(parameters.get(k), getattr(default, k)) for k in ("low", "high"))
        return cls(**text, low=low, high=high, labelled=parameters.get("labelled") == "True")


@dataclass(frozen=True)
class SearchPage:
    """The page's components: one for each field of SearchQuery, the button and what it finds."""

    q: gr.Textbox
    by: gr.Radio
    block: gr.Dropdown
    step: gr.Dropdown
    low: gr.Slider
    high: gr.Slider
    labelled: gr.Checkbox
    order: gr.Dropdown
    find: gr.Button
    results: gr.HTML

    @property
    def query(self) -> list[Block]:
        """The components of a SearchQuery's fields."""
        return [getattr(self, name) for name in vars(SearchQuery())]


def draw(session: ExplorerSession) -> SearchPage:
    """The page's components; call inside its tab."""
    blocks = [ANY, *(session.atlas.blocks if session.atlas else ())]
    steps = [ANY, *(map(str, session.atlas.steps) if session.atlas else ())]
    with gr.Row(elem_classes="ub-toolbar"):
        q = gr.Textbox(label="Search features", placeholder="red, left of, up.0.1/17, 17 \u2026", scale=4,
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
    first = ""
    if session.atlas is not None:
        query = SearchQuery(labelled=True, order="label score")
        first = results(session, query, "The features whose labels foretell best where they fire.")
    return SearchPage(q, by, block, step, low, high, labelled, order, find,
                      html_component(first, elem_id="search-results"))  # fmt: skip


def outputs(shared: SharedComponents, page: SearchPage) -> list[Block]:
    """The components that change when a search is opened."""
    return [*page.query, page.results, shared.link]


def run_search(shared: SharedComponents, page: SearchPage, query: SearchQuery) -> Updates:
    """The results of a search, and its link."""
    return {page.results: results(shared.session, query), shared.link: link("search", **query.to_link())}


def wire(shared: SharedComponents, page: SearchPage) -> None:
    """The page's events."""

    def search(
        q: str | None, by: str, block: str, step: str, low: float, high: float, labelled: bool, order: str
    ) -> Updates:
        return run_search(shared, page, SearchQuery(q or "", by, block, step, low, high, labelled, order))

    for event in (page.find.click, page.q.submit):
        shared.show_link(listen(event, search, page.query, [page.results, shared.link]))


def results(session: ExplorerSession, query: SearchQuery, note: str = "") -> str:
    """Results as HTML, under a note. Raises UnboxError for a search that cannot be."""
    atlas = session.atlas
    if atlas is None:
        raise UnboxError("search needs an atlas: build one with `unbox atlas` and start with --atlas")
    text = limits.text("the search", query.q, 300)
    if query.step != ANY and not (query.step.isascii() and query.step.isdigit()):
        raise UnboxError(f"no step '{query.step[:20]}'; there are {', '.join(map(str, atlas.steps))}")
    among = Filter(
        block=None if query.block == ANY else query.block,
        step=None if query.step == ANY else int(query.step[:9]),
        density=None if (query.low, query.high) == DENSITY else (10.0**query.low, 10.0**query.high),
        labelled=bool(query.labelled),
    )
    found: list[tuple[Facts, float | None]]
    if query.by == MEANING:
        if not text:
            raise UnboxError("say what to look for: a word, or a whole caption")
        near = atlas.meaning(session.model(session.default), text, among, limit=RESULTS)
        found = [(each.facts, each.score) for each in near]
    else:
        order = None if query.order == BEST else query.order
        found = [(facts, None) for facts in atlas.search(text, among, order=order, limit=RESULTS)]
    cards = [(facts, feature_summaries.cover(session, facts.name), likeness) for facts, likeness in found]
    return render("search_results.html", note=note, found=cards)


def _density(text: str | None, default: float) -> float:
    """A bound of the density in a link, or its default."""
    try:
        return limits.number("density", float(text or "nan"), *DENSITY)
    except (ValueError, UnboxError):
        return default
