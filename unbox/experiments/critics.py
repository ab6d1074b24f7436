"""Critics: who knows the pictures of a world, and so can caption, measure and aim edits in them.

An experiment's file asks for what critics offer by name: `prompts = { shapes = 16 }`, `where = "object"`,
`metrics = ["factors"]`, `target = ["colour", "red"]`. A critic registers itself when `unbox.plugins` imports
its module, and so is in no import of this package.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unbox.errors import FieldError
from unbox.mask import Mask
from unbox.plugins import load_plugins
from unbox.prompt import Prompt
from unbox.validation import unknown

Figures = dict[str, float]

#: Metrics of any picture: the rows of `metrics.METRICS`, which needs torch.
METRIC_NAMES = ("pixels", "structure", "colour", "lpips", "clip", "density")

#: Those that a CLIP model measures.
BY_CLIP = ("clip", "density")


@dataclass(frozen=True)
class ImagePair:
    """An unedited and an edited image of one size, the prompt, and what the edit was meant for."""

    before: Image.Image
    after: Image.Image
    prompt: str
    mask: np.ndarray | None = None
    """(height, width) weights at the image's size."""
    target: tuple[str, str] | None = None
    """Factor of a critic and its value that the edit should bring about."""


Metric = Callable[[Sequence[ImagePair]], list[Figures]]

#: (images,) how little a critic can place each picture in its world.
Strangeness = Callable[[Sequence[Image.Image]], np.ndarray]


@dataclass(frozen=True)
class Critic:
    """What experiments can ask about the pictures of one world, each thing by the name that files use."""

    name: str
    prompts: Callable[..., list[Prompt]]
    """Captions of the world: of their number, and `prompt_options` by name."""
    prompt_options: type
    """A validated class of the table that asks for captions; the field of the critic's name: their number."""
    metrics: Mapping[str, Metric]
    places: tuple[str, ...]
    """Names of places whose masks differ between prompts."""
    place_mask: Callable[[str, Prompt], Mask | None]
    """Where a place is in the picture of a prompt. Raises UnboxError for prompts of another world."""
    targets: Mapping[str, Sequence[str]]
    """Factors that an edit can aim at, and their values."""
    strangeness: Strangeness | None = None
    """By another network than those of `metrics`, so that what fools these does not fool it."""


_CRITICS: dict[str, Critic] = {}


def register_critic(critic: Critic) -> None:
    """Offer a critic to experiments under its name."""
    _CRITICS[critic.name] = critic


def critics() -> Mapping[str, Critic]:
    """All critics, by name."""
    load_plugins("critics")
    return _CRITICS


def check_metrics(names: Sequence[str], clip_model: str | None) -> None:
    """Raises FieldError for a metric that there is not, and for a CLIP model without its metric or the
    metric without a model. Loads nothing but, for the names of worlds, their critics."""
    if not set(names) <= set(METRIC_NAMES):
        known = [*METRIC_NAMES, *(name for critic in critics().values() for name in critic.metrics)]
        if wrong := next((name for name in names if name not in known), None):
            raise FieldError("", "metrics", wrong, unknown(wrong, known))
    by_clip = next((name for name in names if name in BY_CLIP), None)
    if clip_model is not None and by_clip is None:
        rule = "is for the metric clip (or density): name it among the metrics"
        raise FieldError("", "clip_model", clip_model, rule)
    if clip_model is None and by_clip is not None:
        rule = f"should be a Hub id or a folder with a CLIP model: the metric {by_clip} needs one"
        raise FieldError("", "clip_model", None, rule)


def critics_by_place() -> dict[str, Critic]:
    """The critic that knows each place."""
    return {place: critic for critic in critics().values() for place in critic.places}
