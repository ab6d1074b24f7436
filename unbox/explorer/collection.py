"""Collections: lists of features that a user keeps in the browser, exports as JSON, and shares as links."""

from dataclasses import asdict
from typing import Annotated

from annotated_types import MaxLen, MinLen

from unbox.explorer import limits
from unbox.explorer.feature_summaries import cover, facts_of
from unbox.explorer.html import render
from unbox.explorer.packed_json import packed, parse, unpacked
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import link
from unbox.json_types import JSON
from unbox.validation import Several, parsed, validated


@validated
class FeatureCollection:
    """Features under a name. Its JSON is what the page exports and opens, and what a link holds."""

    name: Annotated[limits.Line, MinLen(1), MaxLen(80)]
    features: Annotated[Several[limits.Line], MaxLen(limits.MOST)] = ()
    note: limits.Words = ""

    @classmethod
    def from_text(cls, text: str) -> "FeatureCollection":
        """A collection from JSON text that may be anybody's. Raises FieldError naming what is wrong."""
        return parsed(cls, parse(text, "collection"), "collection")

    @classmethod
    def from_link(cls, link: str) -> "FeatureCollection":
        """Inverse of `to_link`."""
        return parsed(cls, unpacked(link), "link")

    def to_json(self) -> dict[str, JSON]:
        """What `from_text` reads."""
        return asdict(self) | {"features": list(self.features)}

    def to_link(self) -> str:
        """The collection in a URL."""
        return packed(self.to_json())


def collection_html(session: ExplorerSession, found: FeatureCollection, shared: bool = False) -> str:
    """The features of a collection as cards, of other SAEs by name alone. `shared`: it came by a link."""
    names = list(dict.fromkeys(found.features))
    here = [name for name in names if session.has_feature(name)]
    facts = facts_of(session, here)
    cards = [
        (name, facts.get(name), cover(session, name) if name in facts else None, name in here)
        for name in names
    ]
    address = link("collections", c=found.to_link())
    return render(
        "collection.html", found=found, cards=cards, data=found.to_json(), shared=shared, link=address
    )
