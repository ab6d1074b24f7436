"""Noise schedules against closed forms and diffusers' own functions."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from unbox.training.noise import Noise, scaled_linear, zero_terminal_snr


def _betas():
    return torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2


def test_the_schedules_are_sdxls_and_its_rescaling():
    plain = torch.cumprod(1 - _betas(), 0)
    assert torch.allclose(scaled_linear(), plain, rtol=1e-12)
    rescaled = torch.cumprod(1 - rescale_zero_terminal_snr(_betas()), 0)
    ours = zero_terminal_snr(plain)
    assert float(ours[-1]) == 0.0
    assert torch.allclose(ours[:-1], rescaled[:-1], rtol=1e-7)
    assert float(ours[0]) == pytest.approx(float(plain[0]), rel=1e-12)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_moves_of_a_linear_model_compose(kind):
    """Where every x0 is one known value the model is linear in x_t, and two moves make the one of both."""
    noise = Noise(scaled_linear(), kind)
    value = torch.randn(1, 4, 8, 8, dtype=torch.float64)

    def model(x_t, t):
        return noise.output(value.expand_as(x_t), x_t, t)

    def time(t):
        return torch.full((3,), t)

    x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    whole = noise.move(x, model(x, time(999)), time(999), time(499))
    half = noise.move(x, model(x, time(999)), time(999), time(749))
    half = noise.move(half, model(half, time(749)), time(749), time(499))
    assert torch.allclose(whole, half, atol=1e-12)
    assert torch.allclose(noise.move(x, model(x, time(99)), time(99), time(-1)), value.expand(3, -1, -1, -1))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_move_is_ddims_own_step(kind):
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind,
        clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing",
    )  # fmt: skip
    scheduler.set_timesteps(4)
    noise = Noise(scaled_linear(), kind)
    x, output = torch.randn(2, 2, 4, 8, 8)
    for t, to in zip(scheduler.timesteps.tolist(), [*scheduler.timesteps.tolist()[1:], -1], strict=True):
        theirs = scheduler.step(output, t, x).prev_sample
        ours = noise.move(x, output, torch.tensor([t, t]), torch.tensor([to, to]))
        assert torch.allclose(ours, theirs, atol=2e-5, rtol=1e-4), t


def test_min_snr_table_with_and_without_a_floor():
    abar = zero_terminal_snr(scaled_linear())
    t = torch.tensor([0, 100, 500, 900, 998, 999])
    snr = (abar[t] / (1 - abar[t])).numpy()
    expected = {
        "v_prediction": np.minimum(snr, 5) / (snr + 1),
        "sample": np.minimum(snr, 5),
    }
    for kind, weights in expected.items():
        ours = Noise(abar, kind, "min-snr").weight(t).numpy()
        assert np.allclose(ours, weights, rtol=1e-6)
    eps = Noise(abar, "epsilon", "min-snr").weight(t)[:-1].numpy()
    assert np.allclose(eps, (np.minimum(snr, 5) / snr.clip(1e-300))[:-1], rtol=1e-6)
    plain = Noise(abar, "v_prediction", "min-snr").weight(torch.arange(1000))
    assert float(plain[999]) == 0.0
    assert float(plain[900]) == pytest.approx(0.003, abs=5e-4)
    assert float(plain[900:].sum() / plain.sum()) == pytest.approx(0.00032, abs=5e-5)
    floored = Noise(abar, "v_prediction", "min-snr", floor=1.0).weight(torch.arange(1000))
    assert float(floored.min()) == 1.0


@pytest.mark.parametrize(("floor", "learns"), [(0.0, False), (1.0, True)])
def test_only_a_floor_gives_pure_noise_a_gradient(floor, learns):
    from unbox.training.objectives.diffusion import diffusion_loss

    noise = Noise(zero_terminal_snr(scaled_linear()), "v_prediction", "min-snr", floor=floor)
    weight = torch.ones(1, requires_grad=True)
    x0, eps = torch.randn(2, 2, 4, 8, 8)
    diffusion_loss(lambda x, t: weight * x, noise, x0, eps, torch.tensor([999, 999])).backward()
    assert weight.grad is not None
    assert (float(weight.grad.abs()) > 0) is learns


def test_offset_noise_has_the_stated_spread_and_unit_noise_none():
    generator = torch.Generator().manual_seed(0)
    like = torch.zeros(2000, 4, 8, 8)
    means = Noise(scaled_linear(), offset=0.5).draw(like, generator).mean((2, 3))
    assert float(means.std()) == pytest.approx((0.5**2 + 1 / 64) ** 0.5, rel=0.03)
    assert float(Noise(scaled_linear()).draw(like, generator).mean((2, 3)).std()) == pytest.approx(
        1 / 8, rel=0.03
    )


def test_targets_and_outputs_are_inverse_to_clean():
    for kind in ("epsilon", "v_prediction", "sample"):
        noise = Noise(scaled_linear(), kind)
        x0, eps = torch.randn(2, 4, 4, 8, 8, dtype=torch.float64)
        t = torch.tensor([0, 249, 749, 999])
        x_t = noise.noised(x0, eps, t)
        assert torch.allclose(noise.clean(x_t, noise.target(x0, eps, t), t), x0, atol=1e-9)
        assert torch.allclose(noise.output(x0, x_t, t), noise.target(x0, eps, t), atol=1e-9)
