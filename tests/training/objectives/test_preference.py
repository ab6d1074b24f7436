"""DPO, CPO and SFT, in latents and in perception: log 2 where nothing is preferred, DDPM's own step."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler

from unbox.training.noise import Noise, scaled_linear
from unbox.training.objectives.preference import (
    cpo_loss,
    dpo_loss,
    perceived_errors,
    posterior_step,
    sample_errors,
)

LOG2 = math.log(2)
NOISE = Noise(scaled_linear(), "epsilon")


def drawn(n=6, dtype=torch.float64):
    return torch.randn(n, 4, 8, 8, dtype=dtype)


def convolved(x, t):
    """A frozen perception that is not linear and knows its timestep."""
    weight = torch.linspace(-1, 1, 8 * 4 * 9, dtype=x.dtype).view(8, 4, 3, 3)
    return torch.tanh(F.conv2d(x, weight)) * (1 + t.view(-1, 1, 1, 1) / 500)


def errors(perceive, winner, loser, output, t):
    """Errors (winner, loser) where x0 of `output` is believed at x_t of one noise for both."""
    eps, n = drawn(), drawn()
    return [
        perceived_errors(perceive, NOISE, x_t, NOISE.clean(x_t, output, t), x0, t, n)
        for x0 in (winner, loser)
        for x_t in (NOISE.noised(x0, eps, t),)
    ]


def test_a_model_that_is_its_reference_gives_log_two():
    t = torch.tensor([1, 20, 300, 600, 900, 999])
    w, lo = errors(convolved, drawn(), drawn(), drawn(), t)
    assert float((w - lo).abs().max()) > 0
    assert float(dpo_loss(w, lo, w, lo, 2500.0)) == pytest.approx(LOG2, abs=1e-6)


def test_identical_pairs_give_log_two():
    t, x0 = torch.tensor([1, 20, 300, 600, 900, 999]), drawn()
    eps, n, ours, theirs = drawn(), drawn(), drawn(), drawn()
    x_t = NOISE.noised(x0, eps, t)
    mine, ref = (
        perceived_errors(convolved, NOISE, x_t, NOISE.clean(x_t, each, t), x0, t, n)
        for each in (ours, theirs)
    )
    assert float(dpo_loss(mine, mine, ref, ref, 2500.0)) == pytest.approx(LOG2, abs=1e-6)
    assert float(cpo_loss(mine, mine, 2500.0)) == pytest.approx(LOG2, abs=1e-6)


def test_the_first_timestep_says_nothing():
    t = torch.zeros(6, dtype=torch.long)
    w, lo = errors(convolved, drawn(), drawn(), drawn(), t)
    assert float(w.abs().max()) == float(lo.abs().max()) == 0.0
    assert float(dpo_loss(w, lo, *errors(convolved, drawn(), drawn(), drawn(), t), 2500.0)) == pytest.approx(
        LOG2
    )


def test_an_identical_perception_makes_it_dpo():
    """With f(x) = x the errors are those of eps, times what a posterior step makes of eps, squared."""
    t = torch.tensor([1, 20, 300, 600, 900, 999])
    outputs, x0s, eps, n = torch.randn(2, 6, 4, 8, 8).double(), drawn(), drawn(), drawn()
    abar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    now, then = abar[t], abar[t - 1]
    factor = np.sqrt(then) * (1 - now / then) / (1 - now) * np.sqrt(1 - now) / np.sqrt(now)
    x_t = NOISE.noised(x0s, eps, t)
    for output in outputs:
        found = perceived_errors(lambda x, t: x, NOISE, x_t, NOISE.clean(x_t, output, t), x0s, t, n)
        expected = factor**2 * np.square((output - eps).numpy()).mean((1, 2, 3))
        assert np.allclose(found, expected, rtol=1e-5, atol=0)


def test_a_posterior_step_is_ddpms_own():
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = DDPMScheduler(**betas, variance_type="fixed_small", clip_sample=False)
    for t in (1, 2, 500, 999):
        x, eps = torch.randn(2, 1, 4, 8, 8).unbind()
        generator = torch.Generator().manual_seed(t)
        theirs = scheduler.step(eps, t, x, generator=generator).prev_sample
        n = torch.randn(x.shape, generator=torch.Generator().manual_seed(t))
        time = torch.tensor([t])
        ours = posterior_step(NOISE, x, NOISE.clean(x, eps, time), time, n)
        assert torch.allclose(ours, theirs, atol=2e-4), t


def test_losses_by_hand():
    w, lo, rw, rl = torch.rand(4, 5, dtype=torch.float64)

    def minus_log_sigmoid(x):
        return np.log1p(np.exp(-x))

    a, b, c, d = (each.numpy() for each in (w, lo, rw, rl))
    dpo = minus_log_sigmoid(30 * ((c - d) - (a - b))).mean()
    assert float(dpo_loss(w, lo, rw, rl, 30.0)) == pytest.approx(dpo, rel=1e-12)
    cpo = minus_log_sigmoid(-30 * (a - b)).mean()
    assert float(cpo_loss(w, lo, 30.0)) == pytest.approx(cpo, rel=1e-12)
    assert float(cpo_loss(w, lo, 30.0, 0.5)) == pytest.approx(cpo + 0.5 * a.mean(), rel=1e-12)
    x, y = torch.randn(2, 3, 4, 8, 8)
    assert np.allclose(sample_errors(x, y), np.square(x.numpy() - y.numpy()).mean((1, 2, 3)), rtol=1e-5)


def test_gradients_flow_through_the_perception():
    x0 = drawn().requires_grad_()
    x_t, truth, n, t = drawn(), drawn(), drawn(), torch.full((6,), 400)
    perceived_errors(convolved, NOISE, x_t, x0, truth, t, n).sum().backward()
    assert float(x0.grad.abs().min()) >= 0
    assert float(x0.grad.abs().max()) > 0
