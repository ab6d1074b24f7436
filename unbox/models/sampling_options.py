"""Options of sampling, said once: commands, settings of collecting and tests take them from here."""

from typing import Annotated

from annotated_types import Ge, Le

from unbox.validation import BatchSize, Guidance, Real, Side, Steps, Text, Whole, validated

#: Of micro-conditioning: pixels of a side or a place, and a score, which the UNet is only told.
Pixels = Annotated[Whole, Ge(0), Le(2**20)]
Score = Annotated[Real, Ge(-1000), Le(1000)]


@validated
class StepOptions:
    """How an image is sampled; None: as the system says."""

    steps: Steps | None = None
    """Sampling steps; None: the system's own."""
    guidance: Guidance | None = None
    """Scale of classifier-free guidance; None: the system's own."""

    def settled(self, steps: int, guidance: float) -> tuple[int, float]:
        """Steps and guidance, the given ones (the system's) where these options leave them out."""
        given = self.guidance
        return steps if self.steps is None else self.steps, guidance if given is None else given


@validated
class RunOptions(StepOptions):
    """How an image of a size is sampled."""

    height: Side | None = None
    """Height of the image in pixels; None: the system's own."""
    width: Side | None = None
    """Width of the image in pixels; None: the system's own."""

    def size(self, side: int) -> tuple[int, int]:
        """Height and width; `side` where they are not given."""
        return side if self.height is None else self.height, side if self.width is None else self.width


@validated
class SamplingOptions(RunOptions):
    """How images are generated from prompts."""

    negative_prompt: Text | None = None
    """What not to draw; needs guidance above 1. "" is a text too, and not the same as None."""
    batch_size: BatchSize = 8
    """Images sampled together; changes nothing but rounding, speed and memory."""
