"""Preference objectives: Diffusion-DPO (2311.12908), and DPO, CPO and SFT in the space that a UNet perceives
noised latents in (NCP, 2406.17636, as its official code has them).

`winner` and `loser` are errors (B,) of the model, `ref_winner` and `ref_loser` of the reference; the
captions, noise and timesteps of a pair are one.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from unbox.training.noise import Noise

#: Features (B, ...) of x at timesteps (B,): a frozen network.
Perceive = Callable[[Tensor, Tensor], Tensor]


def sample_errors(found: Tensor, truth: Tensor) -> Tensor:
    """(B,) mean squared differences of each sample, float32."""
    return (found.float() - truth.float()).square().flatten(1).mean(1)


def dpo_loss(winner: Tensor, loser: Tensor, ref_winner: Tensor, ref_loser: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta ((ref_winner - ref_loser) - (winner - loser))). Diffusion-DPO's code has beta / 2 in
    the place of beta, and errors of eps."""
    return -F.logsigmoid(beta * ((ref_winner - ref_loser) - (winner - loser))).mean()


def cpo_loss(winner: Tensor, loser: Tensor, beta: float, sft: float = 0.0) -> Tensor:
    """-log sigmoid(-beta (winner - loser)) + sft winner; no reference. The paper has the second term, the
    official code not."""
    return (-F.logsigmoid(-beta * (winner - loser)) + sft * winner).mean()


def posterior_step(noise: Noise, x_t: Tensor, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """x at t' = max(t - 1, 0) by one ancestral step of DDPM with fixed-small variance from x_t, where x0 is
    believed; all (B, C, H, W), t (B,). At t = 0 nothing is drawn, and x_t is what comes back."""
    now, then = noise.at(t, x_t), noise.at((t - 1).clamp(min=0), x_t)
    beta = 1 - now / then
    mean = (then.sqrt() * beta / (1 - now)).to(x_t) * x0
    mean = mean + ((now / then).sqrt() * (1 - then) / (1 - now)).to(x_t) * x_t
    variance = ((1 - then) / (1 - now) * beta).clamp(min=1e-20)
    drawn = (t > 0).view(-1, *[1] * (x_t.ndim - 1))
    return mean + torch.where(drawn, variance, 0.0).sqrt().to(x_t) * eps


def perceived_errors(
    perceive: Perceive, noise: Noise, x_t: Tensor, x0: Tensor, truth: Tensor, t: Tensor, eps: Tensor
) -> Tensor:
    """(B,) errors in a perception's space, of the posterior step that believes x0 against the one that
    believes the truth; both draw the same eps. Gradients flow through the perception."""
    then = (t - 1).clamp(min=0)
    found = perceive(posterior_step(noise, x_t, x0, t, eps), then)
    return sample_errors(found, perceive(posterior_step(noise, x_t, truth, t, eps), then))
