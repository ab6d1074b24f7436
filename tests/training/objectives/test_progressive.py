"""Lightning's moves and losses: DDIM in NumPy, students that are their teachers, the trailing grid."""

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

from unbox.training.noise import Noise, scaled_linear
from unbox.training.objectives.progressive import ddim_moves, progressive_loss, started, trailing_timesteps

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def network(x_t, t):
    """Something that depends on x_t and t, and is not linear."""
    return torch.tanh(x_t) * (1 + t.view(-1, 1, 1, 1) / 1000)


def test_moves_by_the_formula_in_numpy():
    """x' = a' x0 + s' eps with eps = eps^, x0 = (x - s eps^) / a, thrice from t = 749; the last gives x0."""
    noise = Noise(scaled_linear(), "epsilon")
    abar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    path = torch.tensor([749, 499, 249, -1]).unsqueeze(1).expand(-1, 2)
    found = ddim_moves(network, noise, x, path)
    y = x.numpy()
    for t, then in ((749, abar[499]), (499, abar[249]), (249, 1.0)):
        eps = np.tanh(y) * (1 + t / 1000)
        x0 = (y - np.sqrt(1 - abar[t]) * eps) / np.sqrt(abar[t])
        y = np.sqrt(then) * x0 + np.sqrt(1 - then) * eps
    assert np.allclose(found.numpy(), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_student_that_is_its_teacher_loses_nothing(kind):
    """One move to one; and several to one where the network believes one x0, so that moves compose."""
    noise, x, t = Noise(scaled_linear(), kind), torch.randn(2, 4, 4, 4).double(), torch.tensor([999, 499])
    target = ddim_moves(network, noise, x, torch.stack([t, t - 125]))
    assert float(progressive_loss(network, noise, x, t, t - 125, target)) == 0.0
    value = torch.randn(1, 4, 4, 4).double()

    def sure(x_t, t):
        return noise.output(value.expand_as(x_t), x_t, t)

    to = t - 500
    target = ddim_moves(sure, noise, x, torch.stack([t, t - 125, t - 250, t - 375, to]))
    assert float(progressive_loss(sure, noise, x, t, to, target)) == pytest.approx(0, abs=1e-20)
    assert float(progressive_loss(network, noise, x, t, to, target)) > 1e-3


def test_a_one_step_student_that_predicts_x0_is_compared_with_the_teachers_samples():
    noise = Noise(scaled_linear(), "epsilon")
    x, t = torch.randn(3, 4, 4, 4), torch.full((3,), 999)
    target = ddim_moves(network, noise, x, trailing_timesteps(4).unsqueeze(1).expand(-1, 3))
    guess = torch.randn(3, 4, 4, 4)
    found = progressive_loss(lambda x_t, t: guess, Noise(noise.abar, "sample"), x, t, t - 1000, target)
    assert float(found) == pytest.approx(np.square(guess.numpy() - target.numpy()).mean(), rel=1e-5)


def test_the_first_move_starts_from_noise_alone():
    noise = Noise(scaled_linear())
    x0, eps, t = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4), torch.tensor([999, 998])
    x_t = started(noise, x0, eps, t)
    assert torch.equal(x_t[0], eps[0])
    assert torch.equal(x_t[1], noise.noised(x0, eps, t)[1])
    assert float(noise.abar[-1]) == pytest.approx(0.0046601, rel=2e-5)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 32, 128])
def test_stages_are_trained_where_they_are_sampled(steps):
    scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    found = trailing_timesteps(steps)
    assert found[:-1].tolist() == scheduler.timesteps.int().tolist()
    assert int(found[-1]) == -1
    assert torch.equal(trailing_timesteps(4 * steps)[::4], found)
