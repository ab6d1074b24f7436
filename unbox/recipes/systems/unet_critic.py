"""Critics: a UNet's encoder with a head (Lightning, LADD, DMD2), and heads over a frozen projector (ADD)."""

import math

import torch
from torch import Tensor, nn

from unbox.recipes.systems.shared_unet import RoleNetwork, TextCondition


def normed(channels: int) -> nn.GroupNorm:
    """Groups of a critic's layer: 32 at real size, 8 in small UNets."""
    return nn.GroupNorm(32 if channels >= 512 else 8, channels)


class UNetCritic(nn.Module):
    """An encoder's features after the mid block (B, C, h, w), or two of them side by side, to logits
    (B, n): the head of DMD2's code. From 32 x 32 thrice (conv 4x4 stride 2, norm, SiLU), then conv 4x4 of
    stride 4, norm, SiLU, conv 1x1; from smaller maps as many halvings as leave 4 places."""

    def __init__(self, encoder: RoleNetwork, side: int, pairs: bool) -> None:
        """`side`: the smallest side of the features' maps; `pairs`: two maps are judged at once."""
        super().__init__()
        self.encoder, self.pairs = encoder, pairs
        width = encoder.shared.unet.config.block_out_channels[-1]
        inside = width * 2 if pairs else width
        layers: list[nn.Module] = []
        for _ in range(max(0, int(math.log2(side / 4)))):
            layers += [nn.Conv2d(inside, width, 4, 2, 1), normed(width), nn.SiLU()]
            inside = width
        last = min(4, side)
        layers += [nn.Conv2d(inside, width, last, last), normed(width), nn.SiLU(), nn.Conv2d(width, 1, 1)]
        self.head = nn.Sequential(*layers)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        given: TextCondition,
        before: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Logits of x at t under captions; `before`: (x_t, t) where the move began, for pairs. A timestep of
        -1 is x0, which the encoder sees as at 0."""
        features = self.encoder.encode(x, t.clamp(min=0), given)
        if before is not None:
            features = torch.cat([self.encoder.encode(*before, given), features], 1)
        logits: Tensor = self.head(features).flatten(1)
        return logits


class ProjectedCritic(nn.Module):
    """Light heads over a projector's feature maps, each asked with the caption (StyleGAN-T's, as ADD has
    them): logits (B, n) from maps (B, C, h, w) and the pooled text (B, width)."""

    def __init__(self, channels: list[int], pooled: int, width: int = 64) -> None:
        super().__init__()
        self.maps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inside, width, 1), normed(width), nn.SiLU()) for inside in channels
        )
        self.texts = nn.ModuleList(nn.Linear(pooled, width) for _ in channels)

    def forward(self, maps: list[Tensor], pooled: Tensor) -> Tensor:
        """Logits of all places of all maps."""
        found = []
        for each, text, features in zip(self.maps, self.texts, maps, strict=True):
            hidden = each(features)
            found.append(
                torch.einsum("bchw,bc->bhw", hidden, text(pooled)).flatten(1) / hidden.shape[1] ** 0.5
            )
        return torch.cat(found, 1)
