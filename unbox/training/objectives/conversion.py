"""From a UNet that predicts eps to one that predicts v, on another schedule (NovelAI V3, 2409.15997)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from unbox.training.noise import Noise
from unbox.training.objectives.diffusion import Predict


def same_noise(noise: Noise, abar: Tensor) -> Tensor:
    """(B,) the timesteps of a schedule whose signal is nearest to abar (B,); pure noise is its last."""
    gaps = (noise.abar.sqrt() - abar.to(noise.abar).sqrt().unsqueeze(1)).abs()
    return gaps.argmin(1)


def conversion_loss(
    student: Predict, noise: Noise, teacher: Predict, before: Noise, x_t: Tensor, t: Tensor
) -> Tensor:
    """Squared error of the student's output at x_t (B, C, H, W), t (B,) to what stands there for the x0 that
    the teacher believes; `before` is the teacher's schedule, asked at its timesteps of the same noise. A
    scalar, weighted as `noise` has it."""
    with torch.no_grad():
        there = same_noise(before, noise.abar[t])
        x0 = before.clean(x_t, teacher(x_t, there), there)
        target = noise.output(x0, x_t, t)
    error = F.mse_loss(student(x_t, t), target, reduction="none").flatten(1).mean(1)
    return (noise.weight(t) * error).mean()
