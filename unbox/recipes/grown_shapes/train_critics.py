"""Two readers of pictures that share nothing: a convolutional one and a transformer of patches."""

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from unbox.recipes.grown_shapes.networks import SIDE
from unbox.recipes.grown_shapes.vae_stage import picture_pool
from unbox.recipes.grown_shapes.world import NAMES, targets, values
from unbox.shapes.scene_table import sample_table
from unbox.training.loop import Step, TrainingPlan, Turn, train
from unbox.training.optimizers import muon
from unbox.training.roles import Role


class Heads(nn.Module):
    """Logits of every head from features (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [values(name) for name in NAMES]
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return dict(zip(NAMES, self.linear(features).float().split(self.sizes, -1), strict=True))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.silu(self.one(F.silu(self.norm(x)))))


class ConvolutionalCritic(nn.Module):
    """Pictures (B, 3, 128, 128) in -1..1 to logits of every head."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 64, 96)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), _Residual(after)]
        self.trunk = nn.Sequential(
            *layers,
            nn.GroupNorm(8, 96),
            nn.SiLU(),
            nn.Conv2d(96, 32, 1),
            nn.Flatten(),
            nn.Linear(32 * 64, 256),
            nn.SiLU(),
        )
        self.heads = Heads(256)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.heads(self.trunk(x))


class PatchCritic(nn.Module):
    """The same by attention among 8x8-pixel patches, four layers."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.places = nn.Parameter(torch.randn(1, (SIDE // 8) ** 2, width) * 0.02)
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


#: Name -> network and the seed of its data.
CRITICS = {"detector": (ConvolutionalCritic, 4), "critic": (PatchCritic, 5)}


def _degraded(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures as a generator might leave them: half of them noised, a third softened."""
    chance = torch.rand(3, len(x), 1, 1, 1, generator=generator, device=x.device)
    soft = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    x = torch.where(chance[0] < 0.33, soft, x)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    return x + noise * 0.15 * chance[2] * (chance[1] < 0.5)


def train_critic(
    name: str, folder: Path, plan: TrainingPlan, accelerator: Accelerator, n: int, batch: int, rate: float
) -> nn.Module:
    """Cross-entropy over every head, second objects only where there are any."""
    torch.manual_seed(plan.seed)
    kind, seed = CRITICS[name]
    network, device = kind(), accelerator.device
    pool = picture_pool(n, seed, device, plain=True)
    right = torch.from_numpy(targets(sample_table(n, seed))).to(device)

    def loss(step: Step) -> Tensor:
        index = torch.randint(n, (batch,), generator=step.generator, device=device)
        x = pool[index].float() / 127.5 - 1
        told = role.model(_degraded(x, step.generator))
        wanted = right[index]
        terms = [F.cross_entropy(told[head], wanted[:, i], ignore_index=-100) for i, head in enumerate(NAMES)]
        return torch.stack(terms).mean()

    role = Role(network, muon, rate, ema=0.995)
    train({name: role}, [Turn(name, loss)], plan, folder, accelerator)
    return network.eval().requires_grad_(False)
