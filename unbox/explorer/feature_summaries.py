"""What is known about features in short: labels and thumbnails, where there is an atlas; chips of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unbox.atlas import Facts, Related
from unbox.errors import UnboxError
from unbox.explorer.html import render
from unbox.explorer.recorded_image import RecordedImage
from unbox.explorer.session import ExplorerSession
from unbox.image_uri import PictureFile
from unbox.sae.direction_set import NamedDirection, directions_of

#: Features shown of each block, and at a place; the held-out AUROC of a label that says what is seen, and the
#: features of each block among which such labels are looked for.
SHOWN, AT_PLACE, CLEAR, LOOKED_AT = 8, 2, 0.7, 64


@dataclass(frozen=True)
class FeatureChip:
    """A feature in a list, as `templates/feature_chips.html` draws it."""

    name: str
    label: str
    score: float | None
    """How well the label foretells where the feature fires."""
    strength: float
    level: float
    """Length of its bar, 0 to 1."""
    cover: PictureFile | None
    chosen: bool = False
    note: str = ""
    """Beside its strength."""


def facts_of(session: ExplorerSession, names: Sequence[str]) -> dict[str, Facts]:
    """What the atlas knows of features; those that it does not know are left out."""
    if session.atlas is None:
        return {}
    known = {sae.name for sae in session.atlas.saes}
    ids = [session.atlas.id(name) for name in names if name.rpartition("/")[0] in known]
    found = session.atlas.features(ids) if ids else []
    return {facts.name: facts for facts in found}


def direction_named(session: ExplorerSession, name: str) -> NamedDirection | None:
    """What a feature is, where it is a named direction: a steering vector, a probe, a factor."""
    if not session.has_feature(name):
        return None
    sae, _, index = name.rpartition("/")
    named = directions_of(session.dictionaries[sae])
    return named[int(index)] if named else None


def label_of(session: ExplorerSession, name: str, facts: Facts | None) -> str:
    """What a feature is called: by the atlas, or by its name as a direction; empty where nothing is known."""
    if facts is not None:
        return facts.label
    direction = direction_named(session, name)
    return "" if direction is None else direction.label


def cover(session: ExplorerSession, name: str) -> PictureFile | None:
    """The thumbnail of a feature's top image, of a factor that of the feature that weighs most in it; None
    where there is none."""
    direction = direction_named(session, name)
    weights = {} if direction is None else {part: float(weight) for part, weight in direction.parts.items()}
    try:
        shown = max(weights, key=lambda part: weights[part], default=name)
        return None if session.atlas is None else session.atlas.cover(shown)
    except UnboxError:
        return None


def feature_chips(
    session: ExplorerSession, found: Sequence[tuple[str, float]], chosen: str = "",
    notes: Mapping[str, str] | None = None, longest: float | None = None,
) -> list[FeatureChip]:  # fmt: skip
    """Chips of features by name and strength, with their labels and covers. `notes`: what stands beside a
    strength. `longest`: the strength whose bar is whole; the largest of these unless given."""
    facts = facts_of(session, [name for name, _ in found])
    peak = max((strength for _, strength in found), default=1.0) if longest is None else longest
    chips = []
    for name, strength in found:
        label = label_of(session, name, facts.get(name))
        score = facts[name].score if name in facts else None
        level = min(1.0, strength / peak) if peak > 0 else 0.0
        note = (notes or {}).get(name, "")
        chips.append(
            FeatureChip(name, label, score, strength, level, cover(session, name), name == chosen, note)
        )
    return chips


def related_chips(session: ExplorerSession, found: Sequence[Related]) -> list[FeatureChip]:
    """Chips of features that belong to another, a full bar for a score of 1."""
    return [
        FeatureChip(f.name, f.label, f.score, score, min(1.0, score), cover(session, f.name))
        for f, score in ((each.facts, each.score) for each in found)
    ]


def strongest(
    session: ExplorerSession, recorded: RecordedImage, step: int | None, telling: bool, chosen: str = ""
) -> str:
    """The strongest features of each block, as HTML. `telling`: rare features count for more, and what is
    known to be seen comes first."""
    groups = []
    for sae, values in recorded.values.items():
        weight = session.rarity(sae) if telling else None
        found = recorded.strongest(sae, step, SHOWN, weight)
        height, width = values.shape[2:4]
        groups.append((sae, f"{height}\u00d7{width} places", feature_chips(session, found, chosen)))
    best = seen_here(session, recorded, step, chosen) if telling else []
    return render("strongest_features.html", groups=groups, best=best)


def seen_here(
    session: ExplorerSession, recorded: RecordedImage, step: int | None = None, chosen: str = ""
) -> list[FeatureChip]:
    """What is known by good labels to be in a picture: features that come near their largest activation in
    training, by how near and by how far from chance their labels foretell; each says a word that none before
    it says. None of SAEs without statistics."""
    near = {name: each for sae in recorded.values for name, each in _nearest(session, recorded, sae, step)}
    clear = [facts for facts in facts_of(session, list(near)).values() if (facts.score or 0) >= CLEAR]
    said, chips = set[str](), list[FeatureChip]()
    for facts in sorted(clear, key=lambda each: -near[each.name][1] * ((each.score or 0) - 0.5)):
        peak, share = near[facts.name]
        words = set(facts.label.replace(",", " ").split())
        if len(chips) < SHOWN and not words <= said:
            said |= words
            chips += feature_chips(session, [(facts.name, peak)], chosen, longest=peak / share)
    return chips


def _nearest(
    session: ExplorerSession, recorded: RecordedImage, sae: str, step: int | None
) -> Iterator[tuple[str, tuple[float, float]]]:
    """(name, (largest activation in the picture, its share of the largest in training)) of the features with
    the largest shares."""
    if (stats := session.dictionaries[sae].stats) is not None:
        largest = stats.max.numpy()
        peaks = recorded.peaks(sae, step, len(largest))
        share = np.divide(peaks, largest, out=np.zeros_like(peaks), where=largest > 0).clip(0, 1)
        for i in np.argsort(-share, kind="stable")[:LOOKED_AT]:
            if share[i] > 0:
                yield f"{sae}/{i}", (float(peaks[i]), float(share[i]))


def at_place(
    session: ExplorerSession, recorded: RecordedImage, x: float, y: float, step: int | None, telling: bool
) -> str:
    """The features that fire at a place, as HTML; x and y in fractions of the picture."""
    rows = []
    for sae in recorded.values:
        weight = session.rarity(sae) if telling else None
        rows += feature_chips(session, recorded.at(sae, x, y, step, AT_PLACE, weight))
    return render("features_at_place.html", rows=rows, x=x, y=y)


def scale_of(session: ExplorerSession, name: str) -> float:
    """The activation at which a feature's maps are fully hot: its largest in the atlas, or in training."""
    found = facts_of(session, [name])
    if name in found and found[name].largest > 0:
        return found[name].largest
    sae, _, index = name.rpartition("/")
    stats = session.dictionaries[sae].stats
    return (0.0 if stats is None else float(stats.max[int(index)])) or 1.0
