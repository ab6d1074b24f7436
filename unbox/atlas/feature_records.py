"""What an atlas answers with: plain frozen records."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le, Len
from pydantic import BeforeValidator

from unbox.errors import FieldError
from unbox.image_uri import PictureFile
from unbox.validation import Index, Real, Share, StepIndex, Text, Whole, validated

#: Far over any SAE that fits in memory.
Dimension = Annotated[Whole, Ge(1), Le(2**30)]


#: Of two shares, the smaller first.
Shares = Annotated[tuple[Share, Share], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)]
#: What a database of ours holds: captions may be of any length, and of any characters.
Stored = Annotated[str, Len(0, 1 << 20)]


@validated
class Filter:
    """Which features a search is among; None: any."""

    sae: Text | None = None
    """Name of the SAE."""
    block: Text | None = None
    density: Shares | None = None
    """Share of places where it is active, both ends included."""
    step: StepIndex | None = None
    """Where it is most often active."""
    labelled: bool = False
    """Only those with a label."""

    def __post_init__(self) -> None:
        if self.density is not None and self.density[0] > self.density[1]:
            raise FieldError("", "density", self.density, "should be the smaller share, then the larger")


#: The filter that every feature passes.
ALL = Filter()


@validated
class SAEInfo:
    """One SAE of an atlas."""

    name: Stored
    block: Stored
    latents: Dimension
    k: Dimension
    width: Dimension
    update_std: Annotated[Real, Ge(0)]
    key: Stored
    """Digest of weights, rows and plan."""


@validated
class Facts:
    """What is known of a feature in a line."""

    id: Index
    """Its number over all SAEs of the atlas."""
    name: Stored
    """`up.0.1/4977`: the SAE's name and the feature's index."""
    block: Stored
    index: Index
    density: Real
    """Share of places (image, step, branch, position) where it is active."""
    pictures: Real
    """Share of images where it is active anywhere."""
    mean: Real
    """Mean activation where active; `std` likewise."""
    std: Real
    largest: Real
    first_step: Index | None
    """The first and last of the store's steps where it is ever active, and the one where most often."""
    last_step: Index | None
    peak_step: Index | None
    label: Stored
    author: Stored
    score: Real | None
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
    thumbnail: PictureFile | None


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
