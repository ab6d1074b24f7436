"""Options of sampling, said once: commands, settings of collecting and tests take them from here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepOptions:
    """How an image is sampled; None: as the system says."""

    steps: int | None = None
    """Sampling steps; None: the system's own."""
    guidance: float | None = None
    """Scale of classifier-free guidance; None: the system's own."""

    def settled(self, steps: int, guidance: float) -> tuple[int, float]:
        """Steps and guidance, the given ones (the system's) where these options leave them out."""
        given = self.guidance
        return steps if self.steps is None else self.steps, guidance if given is None else given


@dataclass(frozen=True)
class RunOptions(StepOptions):
    """How an image of a size is sampled."""

    height: int | None = None
    """Height of the image in pixels; None: the system's own."""
    width: int | None = None
    """Width of the image in pixels; None: the system's own."""

    def size(self, side: int) -> tuple[int, int]:
        """Height and width; `side` where they are not given."""
        return side if self.height is None else self.height, side if self.width is None else self.width


@dataclass(frozen=True)
class SamplingOptions(RunOptions):
    """How images are generated from prompts."""

    negative_prompt: str | None = None
    """What not to draw; needs guidance above 1."""
    batch_size: int = 8
    """Images sampled together; changes nothing but rounding, speed and memory."""
