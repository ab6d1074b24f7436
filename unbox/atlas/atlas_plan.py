"""Every size of an atlas: how many examples, bins and relations are kept of each feature."""

from dataclasses import asdict
from typing import Annotated, Any

from annotated_types import Ge, Le

from unbox.validation import Seed, Whole, validated

#: Longer side of the grid that heatmaps and position shares are kept on; larger grids are pooled by maximum.
MAP_SIDE = 32


#: Examples, bins and images of a feature: their product with the latents is asked of memory before a pass.
Size = Annotated[Whole, Ge(1), Le(2**31)]


@validated
class AtlasPlan:
    """What is kept of each feature. Memory grows with latents x examples x cells of the block's grid."""

    top: Size = 20
    """Images in which the feature is most active."""
    random: Size = 12
    """Images drawn at random among those in which it is active at all."""
    intervals: Size = 5
    """Equal intervals of the activation's range, each with its own random images."""
    per_interval: Size = 4
    """Images of each interval."""
    decoys: Size = 8
    """Images in which it is silent although their captions resemble those of the top images."""
    caption_images: Size = 64
    """Most active images whose captions give the words."""
    probes: Size = 1024
    """Random images kept from the words, on which labels are scored."""
    places: Size = 262_144
    """Random places (image, step, branch, position) at which features are counted together."""
    bins: Size = 40
    """Bins of the activation histogram."""
    related: Size = 8
    """Neighbours, co-active features and features of other blocks kept of each feature."""
    seed: Seed = 0
    """Seed of every random choice."""

    def to_json(self) -> dict[str, Any]:
        """The sizes as JSON values."""
        return asdict(self)
