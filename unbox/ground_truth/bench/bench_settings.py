"""Every number that `unbox bench shapes` depends on."""

from unbox.errors import FieldError
from unbox.ground_truth.setting_rules import CAPTION_BYTES, CASE_BYTES, VALUES, FactorValue, WorldSeed
from unbox.memory_limit import require
from unbox.validation import BatchSize, Count, Real, Several, Steps, validated

#: Former names, which name results.
FORMER = {"prompts": "captions"}
#: Settings of which at least one is tried.
LISTS = ("together", "sizes", "strengths", "transported", "moved")


@validated
class BenchSettings:
    """What the benchmark does. Everything here is part of the results' names."""

    steps: Steps = 1
    """Sampling steps; one, as in the runs that SDXL Turbo's published SAEs were made for."""
    captions: Count = 800
    """Captions, held out, whose updates are probed."""
    blocks_tried: Count = 2
    """Blocks tried one by one for each value: those that the value moves most."""
    together: Several[Count] = (2, 4)
    """Numbers of those blocks that are edited together."""
    sizes: Several[Count] = (1, 8, 32)
    """Numbers of features tried, in each block that is edited."""
    strengths: Several[Real] = (1.0, 2.0, 4.0)
    """Strengths tried for each value, in differences of the mean maps."""
    draws: Count = 3
    """Random draws of each control."""
    trial_cases: Count = 10
    """Images on which blocks, spread, size and strength are chosen, for each value and method."""
    test_cases: Count = 20
    """Other images on which success is measured."""
    pairs: Count = 12
    """Pairs of captions of each kind of edit."""
    transported: Several[Count] = (8, 32, 128)
    """Numbers of features that transport carries."""
    moved: Several[Real] = (1.0, 2.0)
    """Strengths of transport."""
    values: Several[FactorValue] = ()
    """Factor values to edit, as colour=red; none: all. Runs over some of them fill the folder of a run over
    all."""
    batch_size: BatchSize = 16
    """Images sampled together; changes nothing but rounding, speed and memory."""
    seed: WorldSeed = 0
    """Seed of captions, images and controls."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", self.values or VALUES)
        if empty := next((name for name in LISTS if not getattr(self, name)), None):
            raise FieldError("", empty, (), "should hold at least one")
        drawn = 6 * (self.trial_cases + self.test_cases) + 2 * 9 * self.pairs
        size = self.captions * CAPTION_BYTES + drawn * CASE_BYTES
        require(size, f"a benchmark of {self.captions:,} captions and {drawn:,} images")
