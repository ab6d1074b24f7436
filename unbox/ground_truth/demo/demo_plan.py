"""Every number that the demo depends on."""

from dataclasses import asdict, dataclass
from typing import Any

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

#: Quality of the report's pictures, WebP.
QUALITY = 88


@dataclass(frozen=True)
class DemoPlan:
    """What the demo does. The defaults take under five minutes on two cores."""

    steps: int = 1
    """Sampling steps of every image."""
    guidance: float | None = None
    """Scale of classifier-free guidance; None: the system's own."""
    prompts: int = 2000
    """Images collected for training."""
    searched: int = 1000
    """How many of these images features are looked for in."""
    heldout: int = 400
    """Images collected for every held-out figure: captions of looks that training has not seen."""
    latents: int = 512
    """Latents of each SAE."""
    k: int = 8
    """Active latents at each position."""
    tokens: int = 1_000_000
    """Vectors that each SAE is trained on."""
    features: tuple[int, ...] = (8, 24)
    """Sizes of feature sets tried for each value, on the trial captions."""
    strengths: tuple[float, ...] = (2.0, 3.0, 5.0, 8.0, 12.0)
    """Strengths tried for each value, in contrasts of the features."""
    trial: int = 10
    """Captions on which set and strength are chosen, for each value."""
    test: int = 50
    """Other captions, on which success is counted, for each value."""
    trial_pool: int = 30
    """Captions drawn to take the trial ones from: those that do not show the value."""
    test_pool: int = 100
    """Captions drawn to take the test ones from."""
    seed: int = 0
    """Seed of everything."""
    targets: tuple[tuple[str, str], ...] = TARGETS
    """Factor values to find features for and to turn on."""

    @property
    def drawing(self) -> dict[str, Any]:
        """How every picture is drawn: arguments of `collect` and `Model.generate`."""
        return {"steps": self.steps, "guidance": self.guidance}

    def part(self, *names: str) -> dict[str, Any]:
        """Some of the settings, as JSON: what one stage depends on."""
        values = asdict(self)
        return {name: values[name] for name in names}
