"""Training the detector on real renders, blurred and noised a little so that it also reads generated ones."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unbox.recipes.shapes.training_pictures import Pictures
from unbox.recipes.training_loop import StagePlan, train
from unbox.shapes import Scene
from unbox.shapes.detector import HEADS, Detector, truth

PLAN = StagePlan(steps=1200, rate=2e-3, warmup=50, ema=0.99, decay_from=0.3)


def targets(scenes: list[Scene]) -> dict[str, Tensor]:
    """Indices of every head's right value, (scenes,); -100 for the second object of a scene of one."""
    rows = [truth(scene) for scene in scenes]
    return {
        name: torch.tensor([values.index(row[name]) if name in row else -100 for row in rows])
        for name, values in HEADS.items()
    }


def _degraded(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures as a generator might leave them: half of them noised, a third softened."""
    noise = torch.from_numpy(rng.uniform(0, 0.15, (len(x), 1, 1, 1)) * (rng.random((len(x), 1, 1, 1)) < 0.5))
    soft = torch.from_numpy(rng.random((len(x), 1, 1, 1)) < 0.33)
    x = torch.where(soft, F.avg_pool2d(x, 3, stride=1, padding=1), x)
    return x + noise.float() * torch.randn_like(x)


def train_detector(data: Pictures, folder: Path, plan: StagePlan = PLAN, batch: int = 96) -> Detector:
    """Cross-entropy over every head, second objects only where there are any."""
    torch.manual_seed(plan.seed)
    detector = Detector()
    right = targets(data.scenes)

    def loss(step: int, rng: np.random.Generator, progress: float) -> Tensor:
        index = rng.integers(len(data), size=batch)
        with torch.autocast("cpu", torch.bfloat16):
            logits = detector(_degraded(data.images(index), rng))
        terms = [
            F.cross_entropy(logits[name].float(), target, ignore_index=-100)
            for name in HEADS
            if ((target := right[name][index]) >= 0).any()
        ]
        return torch.stack(terms).mean()

    train("detector", detector, loss, plan, folder)
    return detector.eval().requires_grad_(False)
