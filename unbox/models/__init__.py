"""The generation stack: systems as data, loading, sampling, and the clock that instruments read."""

from typing import TYPE_CHECKING

from unbox.lazy_package import lazy

if TYPE_CHECKING:
    from unbox.models.clock import Run, clock
    from unbox.models.conditioning import BUCKETS, Micro, nearest_bucket
    from unbox.models.hooks import Instrument, as_instrument
    from unbox.models.load import load
    from unbox.models.model import Model, weight_hash
    from unbox.models.seeds import image_seed
    from unbox.models.system_table import SYSTEMS, find_system
    from unbox.models.systems import Part, System

__all__ = [
    "BUCKETS",
    "SYSTEMS",
    "Instrument",
    "Micro",
    "Model",
    "Part",
    "Run",
    "System",
    "as_instrument",
    "clock",
    "find_system",
    "image_seed",
    "load",
    "nearest_bucket",
    "weight_hash",
]

lazy(__name__)
