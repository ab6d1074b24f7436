"""Every number that `unbox bench shapes` depends on."""

from dataclasses import dataclass

from unbox.errors import UnboxError
from unbox.shapes import FACTORS

#: Former names, which name results.
FORMER = {"prompts": "captions"}
#: Every value of every factor.
VALUES = tuple((factor, value) for factor, options in FACTORS.items() for value in options)


@dataclass(frozen=True)
class BenchSettings:
    """What the benchmark does. Everything here is part of the results' names."""

    steps: int = 1
    """Sampling steps; one, as in the runs that SDXL Turbo's published SAEs were made for."""
    captions: int = 800
    """Captions, held out, whose updates are probed."""
    blocks_tried: int = 2
    """Blocks tried one by one for each value: those that the value moves most."""
    together: tuple[int, ...] = (2, 4)
    """Numbers of those blocks that are edited together."""
    sizes: tuple[int, ...] = (1, 8, 32)
    """Numbers of features tried, in each block that is edited."""
    strengths: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Strengths tried for each value, in differences of the mean maps."""
    draws: int = 3
    """Random draws of each control."""
    trial_cases: int = 10
    """Images on which blocks, spread, size and strength are chosen, for each value and method."""
    test_cases: int = 20
    """Other images on which success is measured."""
    pairs: int = 12
    """Pairs of captions of each kind of edit."""
    transported: tuple[int, ...] = (8, 32, 128)
    """Numbers of features that transport carries."""
    moved: tuple[float, ...] = (1.0, 2.0)
    """Strengths of transport."""
    values: tuple[tuple[str, str], ...] = ()
    """Factor values to edit, as colour=red; none: all. Runs over some of them fill the folder of a run over
    all."""
    batch_size: int = 16
    """Images sampled together; changes nothing but rounding, speed and memory."""
    seed: int = 0
    """Seed of captions, images and controls."""

    def __post_init__(self) -> None:
        unknown = [value for value in self.values if value not in VALUES]
        if unknown:
            known = ", ".join("=".join(value) for value in VALUES)
            raise UnboxError(f"no value '{'='.join(unknown[0])}' in the Shapes world; there are {known}")
        object.__setattr__(self, "values", self.values or VALUES)
