"""Progressive distillation on DDIM moves, as SDXL-Lightning does it (2402.13929)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from unbox.training.noise import Noise
from unbox.training.objectives.diffusion import Predict


def started(noise: Noise, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t (B, C, H, W) as it is given to teacher and student: at the last timestep unit noise, without the
    trace of x0 that the schedule leaves there, as in sampling. What is read from the networks' outputs keeps
    the schedule's own abar."""
    pure = (t == len(noise.abar) - 1).view(-1, *[1] * (x0.ndim - 1))
    return torch.where(pure, eps, noise.noised(x0, eps, t))


def ddim_moves(predict: Predict, noise: Noise, x_t: Tensor, path: Tensor) -> Tensor:
    """x at path[-1] by deterministic moves along timesteps `path` (moves + 1, B) from x_t (B, C, H, W), which
    is at path[0]; -1 stands for x0."""
    for t, to in pairwise(path):
        x_t = noise.move(x_t, predict(x_t, t), t, to)
    return x_t


def progressive_loss(
    student: Predict, noise: Noise, x_t: Tensor, t: Tensor, to: Tensor, target: Tensor
) -> Tensor:
    """Squared error of the student's one move from x_t at t (B,) to where the teacher's moves ended, `target`
    (B, C, H, W) at `to` (B,); a scalar. `noise` reads the student's output: of kind "sample" it is the
    one-step student that predicts x0."""
    return F.mse_loss(ddim_moves(student, noise, x_t, torch.stack([t, to])), target.detach())


def trailing_timesteps(steps: int, timesteps: int = 1000) -> Tensor:
    """(steps + 1,) timesteps of a run of so many steps, from the last one (diffusers' trailing spacing), and
    -1 for x0. The grid of a multiple of the steps holds it."""
    return (timesteps - torch.arange(steps + 1, dtype=torch.float64) * timesteps / steps).round().long() - 1
