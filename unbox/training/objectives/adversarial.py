"""Adversarial objectives of ADD (2311.17042), SDXL-Lightning (2402.13929) and LADD (2403.12015).

Critics give logits (B,) or (B, ...); every loss is a mean over all of them, a scalar.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from unbox.training.noise import Noise

#: LADD's critic sees pictures that are noised to timesteps below this one.
LADD_BELOW = 750


def hinge_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """ADD's critic: max(0, 1 - real) + max(0, 1 + fake)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """ADD's student: -fake."""
    return -fake.mean()


def softplus_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Lightning's critic, and BCE's for LADD: -log sigmoid(real) - log(1 - sigmoid(fake))."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def softplus_generator_loss(fake: Tensor) -> Tensor:
    """The student against it: -log sigmoid(fake), not saturating."""
    return F.softplus(-fake).mean()


def r1_penalty(critic: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Mean over the batch of the squared norm of the critic's gradient at real inputs (B, ...); a scalar that
    can be differentiated (R1, 1801.04406; ADD takes it at the projector's features)."""
    inputs = real.detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(inputs).sum(), inputs, create_graph=True)
    return slope.flatten(1).square().sum(1).mean()


def add_distillation_loss(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """ADD's distillation: weight (B,) times the squared error of the student's x0 (B, C, H, W) to what the
    teacher makes of it, noised anew, which is not learned through. The paper's exponential weight is
    sqrt(abar) of the teacher's timestep."""
    error = (student - teacher.detach()).square().flatten(1).mean(1)
    return (weight.to(error) * error).mean()


def ladd_noised(
    noise: Noise, x0: Tensor, generator: torch.Generator | None = None, below: int = LADD_BELOW
) -> tuple[Tensor, Tensor]:
    """What LADD's critic sees of x0 (B, C, H, W): noised to timesteps of its own, uniform in [0, below); and
    those, (B,)."""
    t = torch.randint(below, (len(x0),), generator=generator, device=x0.device)
    return noise.noised(x0, noise.draw(x0, generator).to(x0), t), t


def ladd_critic_loss(real: Tensor, fake: Tensor, misaligned: Tensor) -> Tensor:
    """LADD's critic: BCE, real pictures under the captions of others among the fakes."""
    return softplus_critic_loss(real, torch.cat([fake, misaligned]))
