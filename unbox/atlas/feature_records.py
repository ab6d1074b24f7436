"""What an atlas answers with: plain frozen records."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Filter:
    """Which features a search is among; None: any."""

    sae: str | None = None
    """Name of the SAE."""
    block: str | None = None
    density: tuple[float, float] | None = None
    """Share of places where it is active, both ends included."""
    step: int | None = None
    """Where it is most often active."""
    labelled: bool = False
    """Only those with a label."""


#: The filter that every feature passes.
ALL = Filter()


@dataclass(frozen=True)
class SAEInfo:
    """One SAE of an atlas."""

    name: str
    block: str
    latents: int
    k: int
    width: int
    update_std: float
    key: str
    """Digest of weights, rows and plan."""


@dataclass(frozen=True)
class Facts:
    """What is known of a feature in a line."""

    id: int
    """Its number over all SAEs of the atlas."""
    name: str
    """`up.0.1/4977`: the SAE's name and the feature's index."""
    block: str
    index: int
    density: float
    """Share of places (image, step, branch, position) where it is active."""
    pictures: float
    """Share of images where it is active anywhere."""
    mean: float
    """Mean activation where active; `std` likewise."""
    std: float
    largest: float
    first_step: int | None
    """The first and last of the store's steps where it is ever active, and the one where most often."""
    last_step: int | None
    peak_step: int | None
    label: str
    author: str
    score: float | None
    """How well the label foretells firing on captions it was not made from."""


@dataclass(frozen=True)
class Example:
    """An image that shows a feature."""

    image: int
    """Number in the store."""
    prompt: str
    seed: int
    peak: float
    """Largest activation in it; 0 for decoys."""
    heat: np.ndarray
    """(y, x) float32: activation by place, the largest over steps and branches."""
    thumbnail: Path | None


@dataclass(frozen=True)
class Histogram:
    """Counts (bins,) between edges (bins + 1,); the last bin holds everything above."""

    edges: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Life:
    """A feature over the steps of a run. All arrays are by step of the store."""

    steps: tuple[int, ...]
    places: np.ndarray
    """Places where it is active."""
    first: np.ndarray
    """Images by the first step where it is active; `last` likewise."""
    last: np.ndarray
    overlap: np.ndarray
    """(steps - 1,) of the places active at a step or the next, the share active at both."""


@dataclass(frozen=True)
class Related:
    """Another feature, how much it has to do with this one, and the share of this one's places it is in."""

    facts: Facts
    score: float
    share: float


@dataclass(frozen=True)
class Label:
    """One of a feature's labels."""

    text: str
    kind: str
    author: str
    made: str
    score: float | None


@dataclass(frozen=True)
class KeptLabel:
    """A label of an SAE that is not in the atlas; it is shown again when it is."""

    identity: str
    """Of the SAE."""
    sae: str
    """What the SAE was called."""
    index: int
    label: Label
