"""All that is known of the features of a set of SAEs: built in one pass over a store, asked by queries."""

from unbox.atlas.atlas import Atlas
from unbox.atlas.build import build
from unbox.atlas.labels import set_label
from unbox.atlas.plan import Plan
from unbox.atlas.records import Example, Facts, Histogram, Label, Life, Related, SAEInfo

__all__ = [
    "Atlas",
    "Example",
    "Facts",
    "Histogram",
    "Label",
    "Life",
    "Plan",
    "Related",
    "SAEInfo",
    "build",
    "set_label",
]
