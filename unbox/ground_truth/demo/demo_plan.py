"""Every number that the demo depends on."""

from typing import Any

from unbox.errors import FieldError
from unbox.former_names import as_written
from unbox.ground_truth.setting_rules import CAPTION_BYTES, CASE_BYTES, FactorValue, WorldSeed
from unbox.memory_limit import require
from unbox.models.sampling_options import StepOptions
from unbox.sae.plan import ARRAYS, NUMBER_BYTES
from unbox.site import DEFAULT_BLOCKS
from unbox.validation import Count, Name, Real, Several, Steps, validated

#: The factor values that the demo looks for and turns on: fixed beforehand, not picked by how they came out.
TARGETS = (
    ("colour", "red"),
    ("colour", "green"),
    ("colour", "blue"),
    ("colour", "white"),
    ("texture", "solid"),
    ("texture", "striped"),
    ("texture", "checkered"),
    ("background", "navy"),
    ("background", "olive"),
    ("background", "teal"),
    ("light", "dim"),
    ("light", "bright"),
    ("shape", "circle"),
    ("shape", "star"),
    ("size", "large"),
    ("size", "small"),
)

#: Former names, which name results.
FORMER = {
    "prompts": "captions",
    "heldout": "held_out_captions",
    "features": "sizes",
    "trial": "trial_cases",
    "test": "test_cases",
    "targets": "values",
}

#: What is taken of something -> of how much.
AT_MOST = {"k": "latents", "searched": "captions", "trial_cases": "trial_pool", "test_cases": "test_pool"}
#: Images that features are looked for in, unless told.
SEARCHED = 1000

#: Quality of the report's pictures, WebP.
QUALITY = 88


@validated
class DemoPlan(StepOptions):
    """What the demo does. The defaults take under five minutes on two cores."""

    steps: Steps | None = 1
    blocks: Several[Name] = DEFAULT_BLOCKS
    """Blocks that get an autoencoder and are edited: the paper's four, or others by name; `all`."""
    captions: Count = 2000
    """Captions whose images are collected for training."""
    searched: Count | None = None
    """How many of these images features are looked for in; None: 1,000, or all where there are fewer."""
    held_out_captions: Count = 400
    """Captions whose images every held-out figure is taken on: of looks that training has not seen."""
    latents: Count = 512
    """Latents n of an SAE."""
    k: Count = 8
    """Active latents of a row."""
    tokens: Count = 1_000_000
    """Rows that each SAE sees."""
    sizes: Several[Count] = (8, 24)
    """Numbers of features tried for each value."""
    strengths: Several[Real] = (2.0, 3.0, 5.0, 8.0, 12.0)
    """Strengths tried for each value, in contrasts of the features."""
    trial_cases: Count = 10
    """Images on which size and strength are chosen, for each value."""
    test_cases: Count = 50
    """Other images on which success is measured, for each value."""
    trial_pool: Count = 30
    """Captions drawn to take the trial ones from: those that do not show the value."""
    test_pool: Count = 100
    """Captions drawn to take the test ones from."""
    seed: WorldSeed = 0
    """Seed of everything."""
    values: Several[FactorValue] = TARGETS
    """Factor values to find features for and to turn on, as colour=red."""

    def __post_init__(self) -> None:
        for name, other in AT_MOST.items():
            if (getattr(self, name) or 0) > getattr(self, other):
                rule = f"should be at most {other}, which is {getattr(self, other):,}"
                raise FieldError("", name, getattr(self, name), rule)
        for name in ("blocks", "sizes", "strengths", "values"):
            if not getattr(self, name):
                raise FieldError("", name, (), "should hold at least one")
        if max(self.sizes) > self.latents:
            raise FieldError("", "sizes", self.sizes, f"should be at most latents, which is {self.latents:,}")
        size = (self.captions + self.held_out_captions) * CAPTION_BYTES
        size += (self.trial_pool + self.test_pool) * CASE_BYTES
        # The widest block of Shapes has 128 channels; each of at most eleven gets an SAE, trained together.
        size += self.latents * 128 * 11 * ARRAYS * NUMBER_BYTES
        require(size, f"a demo of {self.captions:,} captions and {self.latents:,} latents")

    def part(self, *names: str) -> dict[str, Any]:
        """Some of the settings, as JSON under their former names: what one stage depends on."""
        chosen = {name: getattr(self, name) for name in names}
        if "searched" in chosen:
            chosen["searched"] = self.searched or SEARCHED
        return as_written(chosen, FORMER)
