"""Search: features by words, by meaning, by statistics, by index."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal, Self, get_args

import gradio as gr
from annotated_types import Ge, Le
from gradio.blocks import Block

from unbox.atlas import Facts, Filter
from unbox.atlas.database import ORDERS
from unbox.errors import FieldError, UnboxError
from unbox.explorer import feature_summaries, limits
from unbox.explorer.events import FieldValue, Updates, html_component, listen
from unbox.explorer.html import render
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import SharedComponents, link
from unbox.json_types import JSON
from unbox.validation import Real, checked, parsed, validated

TITLE = "Search"
By = Literal["words", "meaning"]
WORDS, MEANING = get_args(By)
ANY, BEST = "any", "best match"
#: Most results shown.
RESULTS = 60
#: Bounds of densities, in powers of ten; the least is shown as none.
DENSITY = (-6.0, 0.0)


Density = Annotated[Real, Ge(DENSITY[0]), Le(DENSITY[1])]
Percent = Annotated[Real, Ge(0), Le(100)]


def percent_of(density: float) -> float:
    """What a density, in powers of ten, is in percent; the least is none."""
    return 0.0 if density <= DENSITY[0] else float(f"{100 * 10**density:.6g}")


def density_of(percent: float) -> float:
    """Inverse of `percent_of`."""
    return round(math.log10(max(percent / 100, 10 ** DENSITY[0])), 6)


@validated
class SearchQuery:
    """A search. A link holds what differs from these defaults."""

    q: limits.Words = ""
    by: By = "words"
    block: limits.Line = ANY
    step: limits.StepChoice = ANY
    low: Density = DENSITY[0]
    high: Density = DENSITY[1]
    labelled: bool = False
    order: limits.Line = BEST

    def to_link(self) -> dict[str, str]:
        """The parameters of a link."""
        default = asdict(SearchQuery())
        return {k: str(v) for k, v in asdict(self).items() if k == "q" or v != default[k]}

    @classmethod
    def from_link(cls, parameters: Mapping[str, str]) -> Self:
        """Inverse of `to_link`; what is empty stays at its default. Raises FieldError for other values."""
        given: dict[str, JSON] = {name: text for name, text in parameters.items() if text}
        for name in {"low", "high"} & set(given):
            given[name] = _number(parameters[name])
        if "labelled" in given:
            given["labelled"] = {"True": True, "False": False}.get(parameters["labelled"], given["labelled"])
        return parsed(cls, given, "link")


@dataclass(frozen=True)
class SearchPage:
    """The page's components: one for each field of SearchQuery, the button and what it finds."""

    q: gr.Textbox
    by: gr.Radio
    block: gr.Dropdown
    step: gr.Dropdown
    low: gr.Number
    """In percent of all places, as `high`."""
    high: gr.Number
    labelled: gr.Checkbox
    order: gr.Dropdown
    find: gr.Button
    results: gr.HTML

    @property
    def query(self) -> list[Block]:
        """The components of a SearchQuery's fields."""
        return [getattr(self, name) for name in vars(SearchQuery())]

    def read(self, values: Sequence[FieldValue]) -> SearchQuery:
        """The search that the components' values say. Raises UnboxError for one that cannot be."""
        given = dict(zip(vars(SearchQuery()), values, strict=True))
        for name in ("low", "high"):
            given[name] = density_of(checked(Percent, name, given[name], "search"))
        return parsed(SearchQuery, given, "search")

    def shown(self, query: SearchQuery) -> Updates:
        """The components with a search."""
        values = asdict(query) | {"low": percent_of(query.low), "high": percent_of(query.high)}
        return {getattr(self, name): value for name, value in values.items()}


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
        low = gr.Number(0, label="Fires in at least, % of places", minimum=0, maximum=100, min_width=150)
        high = gr.Number(100, label="in at most, %", minimum=0, maximum=100, min_width=110)
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

    def search(*values: FieldValue) -> Updates:
        return run_search(shared, page, page.read(values))

    def sift(*values: FieldValue) -> Updates:
        if page.read(values).by == MEANING and not values[0]:  # the first choice of two, not a mistake
            note = "By meaning: type a word, or a whole caption."
            return {page.results: render("note.html", note=note), shared.link: gr.skip()}
        return search(*values)

    shown = [page.results, shared.link]
    for event in (page.find.click, page.q.submit):
        shared.show_link(listen(event, search, page.query, shown))
    filters = (page.by, page.block, page.step, page.labelled, page.order)
    for event in (*(each.input for each in filters), page.low.submit, page.high.submit):
        shared.show_link(listen(event, sift, page.query, shown))


def results(session: ExplorerSession, query: SearchQuery, note: str = "") -> str:
    """Results as HTML, under a note or what the search says. Raises UnboxError for one that cannot be."""
    atlas = session.atlas
    if atlas is None:
        raise UnboxError("search needs an atlas: build one with `unbox atlas` and start with --atlas")
    if (step := limits.step_of(query.step)) is not None and step not in atlas.steps:
        rule = f"should be a step of the atlas: {', '.join(map(str, atlas.steps))}"
        raise FieldError("search", "step", step, rule)
    among = Filter(
        block=None if query.block == ANY else query.block,
        step=step,
        density=None if (query.low, query.high) == DENSITY else (10.0**query.low, 10.0**query.high),
        labelled=query.labelled,
    )
    found: list[tuple[Facts, float | None]]
    if query.by == MEANING:
        if not query.q:
            raise FieldError("search", "q", query.q, "should be a word, or a whole caption")
        near = atlas.meaning(session.model(session.default), query.q, among, limit=RESULTS)
        found = [(each.facts, each.score) for each in near]
        if unheard := atlas.in_no_caption(query.q):
            words = ", ".join(map(repr, unheard))
            note = f"No caption of the atlas holds {words}: what is like it is a guess."
    else:
        order = None if query.order == BEST else query.order
        search = atlas.find(query.q, among, order=order, limit=RESULTS)
        found, note = [(facts, None) for facts in search.found], search.note or note
    cards = [(facts, feature_summaries.cover(session, facts.name), likeness) for facts, likeness in found]
    return render("search_results.html", note=note, found=cards)


def _number(text: str) -> float | str:
    """The number that a text is; else the text, which the field's rule refuses."""
    try:
        return float(text)
    except ValueError:
        return text
