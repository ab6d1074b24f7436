"""Every size of an atlas: how many examples, bins and relations are kept of each feature."""

from dataclasses import asdict, dataclass
from typing import Any

from unbox.errors import UnboxError

#: Longer side of the grid that heatmaps and position shares are kept on; larger grids are pooled by maximum.
MAP_SIDE = 32


@dataclass(frozen=True)
class AtlasPlan:
    """What is kept of each feature. Memory grows with latents x examples x cells of the block's grid."""

    top: int = 20
    """Images in which the feature is most active."""
    random: int = 12
    """Images drawn at random among those in which it is active at all."""
    intervals: int = 5
    """Equal intervals of the activation's range, each with its own random images."""
    per_interval: int = 4
    """Images of each interval."""
    decoys: int = 8
    """Images in which it is silent although their captions resemble those of the top images."""
    caption_images: int = 64
    """Most active images whose captions give the words."""
    probes: int = 1024
    """Random images kept from the words, on which labels are scored."""
    places: int = 262_144
    """Random places (image, step, branch, position) at which features are counted together."""
    bins: int = 40
    """Bins of the activation histogram."""
    related: int = 8
    """Neighbours, co-active features and features of other blocks kept of each feature."""
    seed: int = 0
    """Seed of every random choice."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < (0 if name == "seed" else 1):
                raise UnboxError(f"an atlas with {name} = {value} cannot be made; it is at least 1")

    def to_json(self) -> dict[str, Any]:
        """The sizes as JSON values."""
        return asdict(self)
