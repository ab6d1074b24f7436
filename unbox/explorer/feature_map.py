"""The map of an SAE's dictionary as the page draws it: places, colours, names of features, clusters."""

import base64
from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from unbox.atlas.dictionary_map import DictionaryMap, dictionary_map
from unbox.errors import FieldError
from unbox.explorer.feature_summaries import FeatureChip, facts_of, feature_chips
from unbox.explorer.html import render, share
from unbox.explorer.session import ExplorerSession
from unbox.validation import unknown

Colour = Literal["cluster", "density", "label score"]
COLOURS = get_args(Colour)
#: Features shown of a cluster, and words that it is called by.
SHOWN, WORDS = 4, 3


@dataclass(frozen=True)
class MapCluster:
    """A cluster, as `templates/feature_map.html` lists it."""

    number: int
    """Its shade."""
    name: str
    count: int
    chips: list[FeatureChip]


@dataclass(frozen=True)
class ShadeScale:
    """The numbers that the shades of a map stand for, from `low` to `high`, as texts."""

    what: str
    low: str
    high: str


def map_of(session: ExplorerSession, sae: str) -> DictionaryMap:
    """The map of an SAE's decoder directions, made once. Raises FieldError for an SAE that is not here."""
    if sae not in session.saes:
        raise FieldError("map", "sae", sae, unknown(sae, list(session.saes)))
    if sae not in session.maps:
        session.maps[sae] = dictionary_map(session.saes[sae].W_dec.detach().float().cpu().numpy())
    return session.maps[sae]


def map_html(session: ExplorerSession, sae: str, colour: Colour) -> str:
    """The map as HTML: places as 2 x 16 bits a feature, a shade of 8 bits, labels."""
    found = map_of(session, sae)
    names = [f"{sae}/{i}" for i in range(len(found.places))]
    facts = facts_of(session, names)
    labels = [facts[name].label if name in facts else "" for name in names]
    places = np.rint(found.places * 65535).astype("<u2")
    scores = [facts[n].score if n in facts else None for n in names]
    shades, scale = _shades(session, sae, colour, found, scores)
    clusters = _clusters(session, names, labels, found.cluster)
    return render(
        "feature_map.html", sae=sae, places=_text(places), shades=_text(shades), labels=labels,
        palette=colour == "cluster", clusters=clusters, colour=colour, scale=scale,
    )  # fmt: skip


def _text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _shades(
    session: ExplorerSession, sae: str, colour: Colour, found: DictionaryMap, scores: list[float | None]
) -> tuple[np.ndarray, ShadeScale | None]:
    """(n,) uint8: the cluster, or where a number lies between the least and the largest, 0 for none; and what
    the shades stand for where they are numbers."""
    if colour == "cluster":
        return found.cluster.astype(np.uint8), None
    stats = session.saes[sae].stats
    density = None if stats is None else stats.density.numpy()
    if by_density := colour == "density" and density is not None:
        values = np.log(np.where(density > 0, density, np.nan))
    else:
        values = np.array([np.nan if score is None else score for score in scores], float)
    if not np.isfinite(values).any():
        return np.zeros(len(values), np.uint8), None
    low, high = np.nanmin(values), np.nanmax(values)
    level = (values - low) / max(high - low, 1e-9)
    shades = np.where(np.isfinite(level), np.rint(1 + 254 * np.nan_to_num(level)), 0).astype(np.uint8)
    if by_density:
        return shades, ShadeScale("share of places in which it fires", *map(share, np.exp([low, high])))
    return shades, ShadeScale("label score (AUROC)", f"{low:.2f}", f"{high:.2f}")


def _clusters(
    session: ExplorerSession, names: list[str], labels: list[str], cluster: np.ndarray
) -> list[MapCluster]:
    """The clusters, the largest first, called by words that their labels have more often than others."""
    every = Counter(word for label in labels for word in _words(label))
    stats = {}
    for sae in {name.rpartition("/")[0] for name in names}:
        of = session.saes[sae].stats
        stats[sae] = None if of is None else of.mean_active.numpy()
    found = []
    for number in np.unique(cluster):
        rows = np.nonzero(cluster == number)[0]
        counts = Counter(word for row in rows for word in _words(labels[row]))
        best = sorted(counts, key=lambda word: -(counts[word] ** 2) / every[word])[:WORDS]
        shown = sorted(rows, key=lambda row: not labels[row])[:SHOWN]
        chips = feature_chips(session, [(names[row], _strength(stats, names[row])) for row in shown])
        found.append(MapCluster(int(number), ", ".join(best) or "no labels", len(rows), chips))
    return sorted(found, key=lambda each: -each.count)


def _words(label: str) -> list[str]:
    return label.replace(",", " ").split()


def _strength(stats: dict[str, np.ndarray | None], name: str) -> float:
    """Mean activation of a feature where it is active."""
    sae, _, index = name.rpartition("/")
    found = stats[sae]
    return 0.0 if found is None else float(found[int(index)])
