"""Every number that `unbox bench erasure` depends on."""

from typing import Annotated

from annotated_types import Ge, Lt

from unbox.errors import FieldError
from unbox.ground_truth.setting_rules import CAPTION_BYTES, CASE_BYTES, VALUES, FactorValue, WorldSeed
from unbox.memory_limit import require
from unbox.validation import BatchSize, Count, Guidance, Real, Several, Steps, validated

#: Settings of which at least one is tried.
TRIED = ("percentiles", "multipliers", "sizes", "steered", "negative_guidance")


@validated
class ErasureSettings:
    """What the erasure benchmark does. Everything here is part of the results' names."""

    steps: Steps = 1
    """Sampling steps; one, as in the runs that SDXL Turbo's published SAEs were made for."""
    captions: Count = 400
    """Captions, held out, whose updates choose the features."""
    blocks_tried: Count = 2
    """Blocks tried one by one for each value: those that the value moves most."""
    percentiles: Several[Annotated[Real, Ge(0), Lt(100)]] = (99.0, 99.8)
    """Percentiles of importance tried."""
    multipliers: Several[Real] = (-1.0, -5.0, -20.0)
    """Multipliers of SAeUron's rule tried."""
    sizes: Several[Count] = (1, 4, 16)
    """Numbers of features tried: those by whose firing `swap` finds its places."""
    steered: Several[Real] = (0.5, 1.0, 2.0)
    """Strengths of steering tried, in differences of mean updates."""
    negative_guidance: Several[Guidance] = (1.5, 3.0, 5.0)
    """Guidance tried with the value as the negative prompt."""
    draws: Count = 3
    """Random draws of each control."""
    trial_cases: Count = 10
    """Images on which blocks, features and strengths are chosen, of the value and as many without it."""
    test_cases: Count = 20
    """Other images on which success is measured."""
    values: Several[FactorValue] = ()
    """Factor values to erase, as colour=red; none: all. Runs over some of them fill the folder of a run over
    all."""
    batch_size: BatchSize = 16
    """Images sampled together; changes nothing but rounding, speed and memory."""
    seed: WorldSeed = 0
    """Seed of captions, images and controls."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", self.values or VALUES)
        if empty := next((name for name in TRIED if not getattr(self, name)), None):
            raise FieldError("", empty, (), "should hold at least one")
        drawn = 12 * (self.trial_cases + self.test_cases)
        size = self.captions * CAPTION_BYTES + drawn * CASE_BYTES
        require(size, f"a benchmark of {self.captions:,} captions and {drawn:,} images")
