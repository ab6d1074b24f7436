"""Every number that the demo depends on."""

from dataclasses import dataclass
from typing import Any

from unbox.former_names import as_written
from unbox.models.sampling_options import StepOptions

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

#: Quality of the report's pictures, WebP.
QUALITY = 88


@dataclass(frozen=True)
class DemoPlan(StepOptions):
    """What the demo does. The defaults take under five minutes on two cores."""

    steps: int | None = 1
    captions: int = 2000
    """Captions whose images are collected for training."""
    searched: int = 1000
    """How many of these images features are looked for in."""
    held_out_captions: int = 400
    """Captions whose images every held-out figure is taken on: of looks that training has not seen."""
    latents: int = 512
    """Latents n of an SAE."""
    k: int = 8
    """Active latents of a row."""
    tokens: int = 1_000_000
    """Rows that each SAE sees."""
    sizes: tuple[int, ...] = (8, 24)
    """Numbers of features tried for each value."""
    strengths: tuple[float, ...] = (2.0, 3.0, 5.0, 8.0, 12.0)
    """Strengths tried for each value, in contrasts of the features."""
    trial_cases: int = 10
    """Images on which size and strength are chosen, for each value."""
    test_cases: int = 50
    """Other images on which success is measured, for each value."""
    trial_pool: int = 30
    """Captions drawn to take the trial ones from: those that do not show the value."""
    test_pool: int = 100
    """Captions drawn to take the test ones from."""
    seed: int = 0
    """Seed of everything."""
    values: tuple[tuple[str, str], ...] = TARGETS
    """Factor values to find features for and to turn on, as colour=red."""

    def part(self, *names: str) -> dict[str, Any]:
        """Some of the settings, as JSON under their former names: what one stage depends on."""
        return as_written({name: getattr(self, name) for name in names}, FORMER)
