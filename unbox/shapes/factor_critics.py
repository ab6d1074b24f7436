"""Two readers of 128-pixel pictures that share nothing: other networks, other seeds, other pictures.

One chooses (when blocks come, in the recipe), the other judges, so that nothing is judged by what chose it.
"""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unbox.shapes.detector import WEIGHTS, Detector, FactorReader, Heads


class PatchCritic(FactorReader):
    """Factors of pictures (B, 3, 128, 128) in -1..1, by attention among 8x8-pixel patches, four layers."""

    side = 128

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.places = nn.Parameter(torch.randn(1, (self.side // 8) ** 2, width) * 0.02)
        self.whole = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 3, 3 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.heads = Heads(width)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        tokens = self.patches(x).flatten(2).mT + self.places
        tokens = torch.cat([self.whole.expand(len(x), -1, -1), tokens], 1)
        return self.heads(self.norm(self.layers(tokens)[:, 0]))


#: Name -> network; their weights lie under these names.
CRITICS: dict[str, type[FactorReader]] = {"detector": Detector, "patches": PatchCritic}


@cache
def load_critic(name: str, folder: Path = WEIGHTS.parent) -> FactorReader:
    """A critic by its name; each is loaded once. Raises KeyError for another name."""
    critic = CRITICS[name]()
    critic.load_state_dict({k: v.float() for k, v in load_file(folder / f"{name}.safetensors").items()})
    return critic.eval().requires_grad_(False)
