"""Diff-Instruct* (2410.20898): the distance of scores by which a one-step generator stays near its teacher.

`psi` and `ref` are what the score of generated pictures and the teacher make of x_t = a x0 + s eps, as x0,
(B, C, H, W). Both are frozen in the generator's turn, but x_t is not detached: gradients flow through it into
both. Scores are k = a / s^2 times these (up to what both have in common).
"""

import torch
from torch import Tensor

from unbox.training.noise import Noise

#: Least norm that SiD divides by.
LEAST = 1e-5


def score_scale(noise: Noise, t: Tensor) -> Tensor:
    """k = a / s^2 of timesteps (B,), float64: a difference of x0 times k is one of scores."""
    abar = noise.abar[t]
    return abar.sqrt() / (1 - abar)


def score_distance_loss(x0: Tensor, psi: Tensor, ref: Tensor, scale: Tensor, c: float) -> Tensor:
    """The pseudo-Huber distance sqrt(|y|^2 + c^2) - c of scores y, by the loss whose gradient is the
    distance's, where it is taken is held fixed: -y . (s_psi - grad log q(x_t | x0)) / sqrt(|y|^2 + c^2), mean
    over the batch; `scale` (B,).

    `c` is not published; 0 makes it the distance itself.
    """
    shape = (-1, *[1] * (x0.ndim - 1))
    y = scale.to(x0).view(shape) * (psi - ref)
    toward = scale.to(x0).view(shape) * (psi - x0)
    norm = (y.square().flatten(1).sum(1) + c**2).sqrt().clamp(min=LEAST)
    return (-(y * toward).flatten(1).sum(1) / norm).mean()


def sid_loss(x0: Tensor, psi: Tensor, ref: Tensor) -> Tensor:
    """SiD's loss at alpha = 1 (2404.04057): -(psi - ref) . (psi - x0), mean of elements, each sample divided
    by mean|x0 - ref|, at least 1e-5, which is not learned through."""
    norm = (x0 - ref).abs().flatten(1).mean(1).clamp(min=LEAST).detach()
    product = ((psi - ref) * (psi - x0)).flatten(1).mean(1)
    return (-product / norm).mean()


def implicit_guidance_loss(x0: Tensor, conditional: Tensor, unconditional: Tensor) -> Tensor:
    """Classifier-free guidance outside the distance: -(conditional - unconditional) . x0, mean of elements,
    the teacher's two estimates not learned through (Diff-Instruct++, 2410.18881)."""
    with torch.no_grad():
        direction = conditional - unconditional
    return -(direction * x0).mean()
