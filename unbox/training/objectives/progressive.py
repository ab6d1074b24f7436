"""Progressive distillation on DDIM moves, as SDXL-Lightning does it (2402.13929)."""

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


def ddim_moves(predict: Predict, noise: Noise, x_t: Tensor, t: Tensor, size: int, count: int) -> Tensor:
    """x at t - count * size by so many deterministic moves from x_t (B, C, H, W), t (B,); what ends below
    timestep 0 is x0."""
    for _ in range(count):
        x_t, t = noise.move(x_t, predict(x_t, t), t, t - size), t - size
    return x_t


def progressive_loss(
    student: Predict,
    noise: Noise,
    x_t: Tensor,
    t: Tensor,
    size: int,
    target: Tensor,
) -> Tensor:
    """Squared error of the student's one move of `size` from x_t to where the teacher's moves ended,
    `target` (B, C, H, W); a scalar. `noise` reads the student's output: of kind "sample" it is the one-step
    student that predicts x0."""
    return F.mse_loss(ddim_moves(student, noise, x_t, t, size, 1), target.detach())


def stage_timesteps(steps: int, timesteps: int = 1000) -> Tensor:
    """(steps,) timesteps that a student of so many steps is trained at, and sampled: the trailing grid, from
    the last. `timesteps` is a multiple of `steps`."""
    return torch.arange(timesteps, 0, -(timesteps // steps)) - 1
