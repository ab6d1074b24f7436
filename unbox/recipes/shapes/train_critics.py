"""Two readers of pictures that share nothing: a convolutional one and a transformer of patches."""

from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from unbox.recipes.shapes.vae_stage import picture_pool
from unbox.recipes.shapes.world import NAMES, targets
from unbox.shapes.detector import Detector
from unbox.shapes.factor_critics import PatchCritic
from unbox.shapes.scene_table import sample_table
from unbox.training.loop import Step, TrainingPlan, Turn, train
from unbox.training.optimizers import muon
from unbox.training.roles import Role

#: Stage -> network and the seed of its data.
CRITICS = {"detector": (Detector, 4), "critic": (PatchCritic, 5)}
#: Stage -> the name of what it makes in `unbox.shapes.factor_critics`.
CRITIC_NAMES = {"detector": "detector", "critic": "patches"}


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
