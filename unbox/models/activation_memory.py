"""What a UNet and a VAE hold at their peak beside their weights, by formulas from their configurations.

Counted are the tensors that live at once in the layer where most do. Both peaks are on the way up: there the
skip connections of the levels above are still held, and at SDXL's sizes the deciding layers are the residual
blocks of the finest level and the feed-forward parts of the level below. Attention that keeps no scores is
taken for granted (torch's own, in all types on CPU and CUDA).

A GPU's convolutions take workspaces besides: of a VAE as much as one more of its largest maps (16.0 GiB for
eight pictures of 1024 x 1024 in float16 and 32.2 in float32 were measured on an H100, docs/gpu.md, where the
tensors are 12.0 and 24.0).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unbox.models.bounded_vae import TILE_PIXELS, at_once

Config = Mapping[str, Any]


@dataclass(frozen=True)
class _Level:
    """A level of a UNet: elements a row of one channel, its channels, and whether it has transformers."""

    places: int
    channels: int
    attends: bool


def unet_bytes(config: Config, rows: int, height: int, width: int, itemsize: int) -> int:
    """Bytes of the tensors that a UNet's forward holds at its peak.

    `rows`: images times branches; `height`, `width`: of the latents. The configuration is a
    UNet2DConditionModel's.
    """
    channels: Sequence[int] = config["block_out_channels"]
    kinds: Sequence[str] = config["up_block_types"]
    levels = [
        _Level(height * width // 4**i, count, "CrossAttn" in kinds[len(channels) - 1 - i])
        for i, count in enumerate(channels)
    ]
    layers = int(config.get("layers_per_block", 2))
    skips = _skips(levels, layers)
    peak, below = 0, levels[-1].channels
    for i in reversed(range(len(levels))):
        level = levels[i]
        own, skips = skips[-layers - 1 :], skips[: -layers - 1]
        entering = below * level.places
        held = sum(skips) + sum(own) + entering
        hidden = below
        for skip in reversed(own):
            joined = hidden * level.places + skip
            peak = max(peak, held + 3 * joined)
            hidden = level.channels
        if level.attends:
            peak = max(peak, held + _FEED_FORWARD * level.channels * level.places)
        below = level.channels
    return rows * peak * itemsize


#: Maps of a level's channels in a transformer's feed-forward part (GEGLU): five on the way to it (inputs of
#: the block, the transformer and the layer, their sums and norm), eight of both halves of the projection,
#: four of the gate's GELU, four of their product.
_FEED_FORWARD = 5 + 8 + 4 + 4


def _skips(levels: Sequence[_Level], layers: int) -> list[int]:
    """Elements a row of each skip connection, in the order in which the way down keeps them."""
    found = [levels[0].channels * levels[0].places]
    for i, level in enumerate(levels):
        found += [level.channels * level.places] * layers
        if i + 1 < len(levels):
            found.append(level.channels * levels[i + 1].places)
    return found


def vae_pictures(config: Config, batch: int, pixels: int) -> tuple[int, int]:
    """How many pictures a VAE has in work at one time, and pixels of each (of a tile, of large ones)."""
    if config.get("_class_name") == "AutoencoderTiny":
        return batch, pixels
    tile = config.get("sample_size", pixels)
    side = int(tile[0] if isinstance(tile, Sequence) else tile) ** 2
    return min(batch, at_once(pixels)), min(side, pixels) if pixels > TILE_PIXELS else pixels


def vae_bytes(config: Config, batch: int, height: int, width: int, itemsize: int) -> int:
    """Bytes of the tensors that a VAE holds while it decodes `batch` pictures of so many pixels.

    Three maps of its second width over all pixels of the pictures in work: what enters the finest residual
    block, its norm, and its activation; and the pictures.
    """
    count, pixels = vae_pictures(config, batch, height * width)
    return 3 * vae_map(config, count * pixels, itemsize) + batch * height * width * 3 * itemsize


def vae_map(config: Config, pixels: int, itemsize: int) -> int:
    """Bytes of the largest map of a VAE's decoder over so many pixels."""
    widths = config.get("block_out_channels") or config.get("decoder_block_out_channels") or (64,)
    return int(widths[min(1, len(widths) - 1)]) * pixels * itemsize
