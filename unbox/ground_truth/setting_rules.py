"""Rules of settings that the benchmark and the demo share, and the memory of what they draw."""

from typing import Annotated

from annotated_types import Ge, Lt
from pydantic import BeforeValidator

from unbox.shapes import FACTORS
from unbox.validation import Whole

#: Every value of every factor.
VALUES = tuple((factor, value) for factor, options in FACTORS.items() for value in options)
#: Bytes in memory of a caption with its scene, and of a picture of 64 x 64 with what is read in it.
CAPTION_BYTES, CASE_BYTES = 4096, 20_000


def _known_value(pair: object) -> object:
    """A factor and one of its values."""
    found = tuple(pair) if isinstance(pair, list | tuple) else pair
    if found not in VALUES:
        raise ValueError(f"is no value of the Shapes world; there are {', '.join(map('='.join, VALUES))}")
    return found


FactorValue = Annotated[tuple[str, str], BeforeValidator(_known_value)]
#: Seeds of images are made of it, a million apart, and have 64 bits.
WorldSeed = Annotated[Whole, Ge(0), Lt(2**43)]
