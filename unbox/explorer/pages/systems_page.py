"""Systems: what `unbox diff` found, with the pictures that show it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from unbox.explorer.figure_files import COUNTS, Comparison, Thumbnail
from unbox.explorer.html import render
from unbox.explorer.session import ExplorerSession

TITLE = "Systems"
#: Prompts whose pictures are shown.
PROMPTS = 8


@dataclass(frozen=True)
class ShownFeature:
    """A row of the page."""

    name: str
    link: str
    """Its page; empty where the explorer has other SAEs."""
    figures: dict[str, Any]
    pictures: Sequence[tuple[str, Thumbnail, Thumbnail]]
    """Prompt, and its picture by the first system and by the other."""


def body(session: ExplorerSession, comparison: Comparison) -> str:
    """How much SAEs explain of each system, and the features that gained or lost activity."""
    own = Path(session.folder).resolve() == saes_of(comparison)
    figures = comparison.figures
    blocks = {
        block: {
            "explained": [
                [f"SAE of {name}", *(_interval(of[each]) for each in figures["systems"])]
                for name, of in found["explained"].items()
            ],
            "changes": [
                [name, *(of[n] for n in COUNTS)]
                for name, of in found["changes"].items()
                if name != "random split"
            ],
            "chance": found["changes"]["random split"],
            "features": {
                name: [shown(comparison, block, name, of, own) for of in features]
                for name, features in found["features"].items()
            },
        }
        for block, found in figures["blocks"].items()
    }
    return render("systems.html", figures=figures, blocks=blocks, prompts=prompts(comparison))


def saes_of(comparison: Comparison) -> Path:
    """Folder of the SAEs that features are numbered by."""
    return (comparison.folder / "saes" / "joint").resolve()


def shown(comparison: Comparison, block: str, system: str, of: dict[str, Any], own: bool) -> ShownFeature:
    """A feature, with a link where its SAE is the explorer's."""
    name = f"{block}/{of['index']}"
    first, other = (comparison.stores.get(each) for each in (comparison.figures["first"], system))
    pictures = []
    if first is not None and other is not None:
        there = [i for i in of["images"] if 0 <= i < min(len(first), len(other))]
        pictures = [(first.samples[i].prompt, Thumbnail(first, i), Thumbnail(other, i)) for i in there]
    return ShownFeature(name, f"?view=feature&f={quote(name)}" if own else "", of, pictures)


def prompts(comparison: Comparison) -> list[tuple[str, dict[str, Thumbnail]]]:
    """The first prompts, and their pictures by each system."""
    stores = comparison.stores
    if not stores:
        return []
    first = next(iter(stores.values()))
    count = min(PROMPTS, *map(len, stores.values()))
    return [
        (first.samples[i].prompt, {name: Thumbnail(store, i) for name, store in stores.items()})
        for i in range(count)
    ]


def _interval(of: dict[str, Any]) -> str:
    return f"{of['fvu']:.3f} ({of['low']:.3f} to {of['high']:.3f})"
