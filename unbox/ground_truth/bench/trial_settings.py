"""What every benchmark of factor values is told: pictures that choose, and pictures that are reported."""

from unbox.errors import FieldError
from unbox.ground_truth.setting_rules import CAPTION_BYTES, CASE_BYTES, VALUES, FactorValue, WorldSeed
from unbox.memory_limit import require
from unbox.validation import BatchSize, Count, Several, Steps, validated


@validated
class TrialSettings:
    """Options are chosen on trial images, figures are of test images."""

    steps: Steps = 1
    """Sampling steps; one, as in the runs that SDXL Turbo's published SAEs were made for."""
    captions: Count = 400
    """Captions, held out, whose updates choose the features."""
    blocks_tried: Count = 2
    """Blocks tried one by one for each value: those that the value moves most."""
    draws: Count = 3
    """Random draws of each control."""
    trial_cases: Count = 10
    """Images on which blocks, features and strengths are chosen, for each value and method; in erasure of the
    value and as many without it."""
    test_cases: Count = 20
    """Other images on which success is measured."""
    values: Several[FactorValue] = ()
    """Factor values to edit, as colour=red; none: all. Runs over some of them fill the folder of a run over
    all."""
    batch_size: BatchSize = 16
    """Images sampled together; changes nothing but rounding, speed and memory."""
    seed: WorldSeed = 0
    """Seed of captions, images and controls."""

    @property
    def lists(self) -> tuple[str, ...]:
        """Settings of which at least one is tried."""
        return ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", self.values or VALUES)
        if empty := next((name for name in self.lists if not getattr(self, name)), None):
            raise FieldError("", empty, (), "should hold at least one")
        size = self.captions * CAPTION_BYTES + self.images * CASE_BYTES
        require(size, f"a benchmark of {self.captions:,} captions and {self.images:,} images")

    @property
    def images(self) -> int:
        """Images that are held in memory, at most."""
        return 12 * (self.trial_cases + self.test_cases)
