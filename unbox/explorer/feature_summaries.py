"""What is known about features, in the pages' words: labels and covers, where there is an atlas."""

from collections.abc import Sequence

from unbox.atlas import Facts
from unbox.errors import UnboxError
from unbox.explorer import fragments
from unbox.explorer.image_uris import file_uri
from unbox.explorer.session import ExplorerSession, RecordedImage

#: Features shown of each block, and at a place.
SHOWN, AT_PLACE = 8, 2


def facts_of(session: ExplorerSession, names: Sequence[str]) -> dict[str, Facts]:
    """What the atlas knows of features; those that it does not know are left out."""
    if session.atlas is None:
        return {}
    known = {sae.name: sae.latents for sae in session.atlas.saes}
    there = [name for name in names if name.rpartition("/")[0] in known]
    found = session.atlas.features([session.atlas.id(name) for name in there]) if there else []
    return {facts.name: facts for facts in found}


def cover(session: ExplorerSession, name: str) -> str:
    """The thumbnail of a feature's top image as a data URI; empty where there is none."""
    if session.atlas is None:
        return ""
    try:
        return file_uri(session.atlas.cover(name))
    except UnboxError:
        return ""


def feature_chips(
    session: ExplorerSession, found: Sequence[tuple[str, float]], chosen: str = ""
) -> list[str]:
    """Chips of features by name and strength, with their labels and covers."""
    facts = facts_of(session, [name for name, _ in found])
    peak = max((strength for _, strength in found), default=1.0)
    return [
        fragments.chip(
            name,
            facts[name].label if name in facts else "",
            strength,
            peak,
            cover(session, name),
            name == chosen,
            facts[name].score if name in facts else None,
        )
        for name, strength in found
    ]


def strongest(
    session: ExplorerSession, recorded: RecordedImage, step: int | None, telling: bool, chosen: str = ""
) -> str:
    """The strongest features of each block, as HTML. `telling`: rare features count for more."""
    parts = []
    for sae, values in recorded.values.items():
        weight = session.rarity(sae) if telling else None
        found = [(f"{sae}/{i}", v) for i, v in recorded.strongest(sae, step, SHOWN, weight)]
        height, width = values.shape[2:4]
        parts.append(
            fragments.chips(sae, feature_chips(session, found, chosen), f"{height}\u00d7{width} places")
        )
    return "".join(parts) or '<p class="ub-none">No SAE reads this system.</p>'


def at_place(
    session: ExplorerSession, recorded: RecordedImage, x: float, y: float, step: int | None, telling: bool
) -> str:
    """The features that fire at a place, as HTML."""
    rows = []
    for sae in recorded.values:
        weight = session.rarity(sae) if telling else None
        found = [(f"{sae}/{i}", v) for i, v in recorded.at(sae, x, y, step, AT_PLACE, weight)]
        rows += feature_chips(session, found)
    place = f"{100 * x:.0f} % from the left, {100 * y:.0f} % from the top"
    body = fragments.chips("Fires here", rows, place)
    return f'<div class="ub-here">{body}</div>' if body else '<p class="ub-none">Nothing fires here.</p>'


def scale_of(session: ExplorerSession, name: str) -> float:
    """The activation at which a feature's maps are fully hot: its largest in the atlas, or in training."""
    found = facts_of(session, [name])
    if name in found and found[name].largest > 0:
        return found[name].largest
    sae, _, index = name.rpartition("/")
    stats = session.saes[sae].stats
    return float(stats.max[int(index)]) if stats is not None and float(stats.max[int(index)]) > 0 else 1.0
