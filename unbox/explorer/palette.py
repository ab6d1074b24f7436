"""The palette of the Paint page: swatches of brushes, or of features of this picture, those liked, or all."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import MaxLen

from unbox.atlas import Facts, Filter
from unbox.explorer import limits
from unbox.explorer.feature_summaries import cover, facts_of, label_of
from unbox.explorer.html import render
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.packed_json import parse
from unbox.explorer.recorded_image import RecordedImage
from unbox.explorer.session import ExplorerSession
from unbox.image_uri import PictureFile
from unbox.validation import Several, parsed, validated

List = Literal["brushes", "picture", "liked", "all"]
#: The lists, and what they are called; that of brushes is left out where there are none.
LISTS: tuple[tuple[List, str], ...] = (
    ("brushes", "brushes"), ("picture", "in this picture"), ("liked", "liked"), ("all", "all"),
)  # fmt: skip
#: Swatches shown at most.
SHOWN = 24
Names = Annotated[Several[limits.Line], MaxLen(limits.MOST)]


@validated
class PaletteQuery:
    """What the palette is asked for: a list, words that labels hold, and what this browser has liked."""

    among: List = "picture"
    words: limits.Words = ""
    liked: Names = ()

    @classmethod
    def of(cls, chosen: str | None, words: str | None, liked: str | None) -> "PaletteQuery":
        """What the page sends; `liked` is JSON."""
        given = {"among": chosen or "picture", "words": words or "", "liked": parse(liked or "[]", "palette")}
        return parsed(cls, given, "palette")


@dataclass(frozen=True)
class Swatch:
    """A feature, as `templates/swatches.html` draws it."""

    name: str
    label: str
    score: float | None
    cover: PictureFile | None


def lists_of(session: ExplorerSession) -> tuple[tuple[List, str], ...]:
    """The lists that a session has, and what they are called, the one that is shown at first before all."""
    return LISTS if session.brushes else LISTS[1:]


def first_query(session: ExplorerSession) -> PaletteQuery:
    """What the palette shows before anything is asked for."""
    return PaletteQuery(among=lists_of(session)[0][0])


def swatches_html(session: ExplorerSession, recipe: Recipe, query: PaletteQuery) -> str:
    """The features that are asked for; `recipe` is of the picture that is painted on."""
    found, note = _found(session, recipe, query)
    return render("swatches.html", swatches=found[:SHOWN], note=note)


def _found(session: ExplorerSession, recipe: Recipe, query: PaletteQuery) -> tuple[list[Swatch], str]:
    if query.among == "brushes":
        brushes = _brushes(session, query.words)
        if brushes or not query.words:
            return brushes, "No brush is here: features paint too."
        return _found(session, recipe, replace(query, among="picture"))
    if query.among == "liked":
        names = [name for name in query.liked if session.has_feature(name)]
        return _holding(_swatches(session, names), query.words), "No feature liked yet: its star does."
    if query.among == "all":
        if session.atlas is None:
            return [], "All features by words: that needs an atlas."
        among = Filter(labelled=not query.words)
        order = None if query.words else "label score"
        rows = session.atlas.search(query.words, among, order=order, limit=2 * SHOWN)
        here = [_swatch(session, facts) for facts in rows if session.has_feature(facts.name)]
        brushes = _brushes(session, query.words) if query.words else []
        return _known_first(session, [*brushes, *here]) if query.words else here, "No feature fits."
    recorded = session.at_hand(recipe.plain)
    if recorded is None and not query.words:
        return [], "Generate, and the features of this picture are here."
    found = [] if recorded is None else _of_picture(session, recorded, query)
    if found or not query.words or session.atlas is None:
        return found, "No feature of this picture fits."
    return _found(session, recipe, replace(query, among="all"))


def _of_picture(session: ExplorerSession, recorded: RecordedImage, query: PaletteQuery) -> list[Swatch]:
    """The features that fire in a picture, the best labels first; of words also those that are known to bring
    about what their labels say, wherever they fire."""
    share = 200 if query.words else -(-2 * SHOWN // max(1, len(recorded.values)))
    names = [
        name
        for sae in recorded.values
        for name, _ in recorded.strongest(sae, None, share, session.rarity(sae))
    ]
    found = sorted(_swatches(session, names), key=lambda each: -(each.score or 0))
    if not query.words:
        return found
    silent = [name for name in session.strengths if name not in names and session.has_feature(name)]
    return _known_first(session, _holding([*found, *_swatches(session, silent)], query.words))


def _known_first(session: ExplorerSession, found: list[Swatch]) -> list[Swatch]:
    """Those first that are known to bring about what their labels say: their strengths are calibrated."""
    return sorted(found, key=lambda each: each.name not in session.strengths)


def _swatches(session: ExplorerSession, names: list[str]) -> list[Swatch]:
    facts = facts_of(session, names)
    return [
        _swatch(session, facts[name])
        if name in facts
        else Swatch(name, label_of(session, name, None), None, cover(session, name))
        for name in names
    ]


def _brushes(session: ExplorerSession, words: str) -> list[Swatch]:
    """The directions to paint with that hold the words, those first whose strength is known."""
    names = [f"{name}/{index}" for name, sae in session.brushes.items() for index in range(sae.latents)]
    return _known_first(session, _holding(_swatches(session, names), words))


def _swatch(session: ExplorerSession, facts: Facts) -> Swatch:
    return Swatch(facts.name, facts.label, facts.score, cover(session, facts.name))


def _holding(swatches: list[Swatch], words: str) -> list[Swatch]:
    """Those whose label or name holds every word."""
    every = words.lower().split()
    return [each for each in swatches if all(word in f"{each.label} {each.name}".lower() for word in every)]
