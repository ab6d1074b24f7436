"""Diff-Instruct*: its gradient on Gaussians against the exact one, its x0 form against SiD's."""

import numpy as np
import pytest
import torch

from unbox.training.noise import Noise, scaled_linear
from unbox.training.objectives.score_distance import (
    implicit_guidance_loss,
    score_distance_loss,
    score_scale,
    sid_loss,
)

A, S, WIDTH, SPREAD, MEAN, C, SIDE = 0.8, 0.6, 0.5, 1.3, 0.4, 0.7, 1500


def strata(n):
    """Normal draws, one in each of n strata of equal weight (in the middle of it)."""
    return torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(n, dtype=torch.float64) + 0.5) / n)


def exact(theta, c):
    """d/dtheta of E sqrt(y^2 + c^2), y = s_theta(x_t) - s_ref(x_t), over x_t ~ N(a theta, v) that stay as
    they are (the paper's sampling distribution is held fixed), by quadrature and central differences."""
    v, v_ref = (A * WIDTH) ** 2 + S**2, (A * SPREAD) ** 2 + S**2
    x = np.linspace(-12, 12, 200_001)
    density = np.exp(-((x - A * theta) ** 2) / 2 / v) / np.sqrt(2 * np.pi * v)

    def distance(moved):
        y = -(x - A * moved) / v + (x - A * MEAN) / v_ref
        return np.trapezoid(density * np.sqrt(y**2 + c**2), x)

    return (distance(theta + 1e-4) - distance(theta - 1e-4)) / 2e-4


def estimated(at, c, detached=False):
    """The loss's gradient for the generator theta + WIDTH z, with both networks exact and frozen."""
    theta = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    z, eps = torch.meshgrid(strata(SIDE), strata(SIDE), indexing="ij")
    x0 = (theta + WIDTH * z).reshape(-1, 1)
    x_t = A * x0 + S * eps.reshape(-1, 1)
    x_t = x_t.detach() if detached else x_t
    v, v_ref = (A * WIDTH) ** 2 + S**2, (A * SPREAD) ** 2 + S**2
    psi = at + A * WIDTH**2 / v * (x_t - A * at)  # E[x0 | x_t] of what is generated: theta in it is frozen
    ref = MEAN + A * SPREAD**2 / v_ref * (x_t - A * MEAN)
    score_distance_loss(x0, psi, ref, torch.full((len(x0),), A / S**2), c).backward()
    return float(theta.grad)


@pytest.mark.parametrize("at", [-1.0, 0.2, 1.5])
def test_the_gaussian_gradient_is_the_exact_one(at):
    assert estimated(at, C) == pytest.approx(exact(at, C), abs=1e-3)


def test_without_the_gradient_through_x_t_it_is_another():
    assert abs(estimated(1.5, C, detached=True) - exact(1.5, C)) > 0.1


def test_the_x0_form_is_sids_at_alpha_one():
    """SiD: w a^2 / s^4 ((1 - alpha) |r|^2 + r . (psi - x0)), r = ref - psi, w such that the factor is one
    over the stand-in norm; in NumPy, to 1e-12. Ours without the norm is the same sum."""
    x0, psi, ref = torch.randn(3, 5, 4, 8, 8, dtype=torch.float64)
    g, p, r = (each.numpy() for each in (x0, psi, ref))
    norm = np.abs(g - r).mean((1, 2, 3))
    sid = (((r - p) * (p - g)).mean((1, 2, 3)) / norm).mean()
    assert float(sid_loss(x0, psi, ref)) == pytest.approx(sid, rel=1e-12)
    noise, t = Noise(scaled_linear()), torch.tensor([3, 200, 500, 800, 999])
    k = score_scale(noise, t)
    abar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[t]
    assert np.allclose(k.numpy(), np.sqrt(abar) / (1 - abar), rtol=1e-9)
    y = np.sqrt(np.square(k.numpy()[:, None, None, None] * (p - r)).sum((1, 2, 3)) + 0.3**2)
    ours = (k.numpy() ** 2 * ((r - p) * (p - g)).sum((1, 2, 3)) / y).mean()
    assert float(score_distance_loss(x0, psi, ref, k, 0.3)) == pytest.approx(ours, rel=1e-12)


def test_equal_scores_lose_nothing_and_move_nothing():
    x0 = torch.randn(2, 4, 8, 8, requires_grad=True)
    psi = torch.randn(2, 4, 8, 8)
    loss = score_distance_loss(x0, psi, psi, torch.ones(2), 0.0) + sid_loss(x0, psi, psi)
    loss.backward()
    assert loss.item() == 0.0
    assert float(x0.grad.abs().max()) == 0.0


def test_guidance_outside_pulls_along_the_teachers_difference():
    x0 = torch.randn(2, 4, 8, 8, requires_grad=True)
    with_caption, without = torch.randn(2, 2, 4, 8, 8).unbind()
    implicit_guidance_loss(x0, with_caption, without).backward()
    assert torch.allclose(x0.grad, -(with_caption - without) / x0.numel())
