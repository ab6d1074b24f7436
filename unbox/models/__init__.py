"""The generation stack: systems as data, loading, sampling, and the clock that hooks read."""

from typing import TYPE_CHECKING

from unbox.lazy_package import lazy

if TYPE_CHECKING:
    from unbox.models.buckets import BUCKETS, nearest_bucket
    from unbox.models.calls import Call
    from unbox.models.clock import Clock, clock
    from unbox.models.conditioning import Micro
    from unbox.models.controlnet import load_controlnet
    from unbox.models.hooks import Hook, Hookable, as_hook
    from unbox.models.load import load
    from unbox.models.model import Model, weight_hash
    from unbox.models.seeds import image_seed
    from unbox.models.system_table import SYSTEMS, find_system
    from unbox.models.systems import Part, System

lazy(__name__)
