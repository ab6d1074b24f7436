"""Edits on a running model: deltas at blocks, masks, guards, transport and erasure.

The values themselves (`Edit`, `Feature`, `Mask`) are in the vocabulary; here they act.
"""

from typing import TYPE_CHECKING

from unbox.lazy_package import lazy

if TYPE_CHECKING:
    from unbox.edits.apply import EditHook, applied, guarded
    from unbox.edits.baselines import Basis, neurons, principal, random_directions
    from unbox.edits.channel_guard import ChannelGuard, channel_limits, whitened_limits
    from unbox.edits.controls import controlled, random_control
    from unbox.edits.edit_files import bind, load_edits, save_edits
    from unbox.edits.erasure import concept_codes, erase, erase_by_difference
    from unbox.edits.feature_factors import FeatureFactor, cluster_factors, nmf_factors
    from unbox.edits.guard import Guard, norm_limits
    from unbox.edits.head_scale import HeadScale
    from unbox.edits.inversion import Inversion, invert
    from unbox.edits.swap import undetected
    from unbox.edits.token_slider import TokenSlider, growing_strength, places_of_word, token_direction

lazy(__name__)
