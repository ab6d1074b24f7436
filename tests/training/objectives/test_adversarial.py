"""Adversarial losses against their formulas in NumPy, and R1 where the gradient is known."""

import numpy as np
import pytest
import torch

from unbox.training.noise import Noise, scaled_linear
from unbox.training.objectives import adversarial

REAL, FAKE = torch.tensor([[2.0, -0.5], [0.3, 1.0]]), torch.tensor([[0.7, -3.0], [0.0, 5.0]])


def test_critics_and_generators_losses_by_hand():
    real, fake = REAL.numpy(), FAKE.numpy()
    hinge = np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()
    assert float(adversarial.hinge_critic_loss(REAL, FAKE)) == pytest.approx(hinge)
    assert float(adversarial.hinge_generator_loss(FAKE)) == pytest.approx(-fake.mean())
    soft = np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(fake)).mean()
    assert float(adversarial.softplus_critic_loss(REAL, FAKE)) == pytest.approx(soft)
    assert float(adversarial.softplus_generator_loss(FAKE)) == pytest.approx(np.log1p(np.exp(-fake)).mean())
    both = np.concatenate([fake, fake + 1])
    ladd = np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(both)).mean()
    assert float(adversarial.ladd_critic_loss(REAL, FAKE, FAKE + 1)) == pytest.approx(ladd)


def test_r1_of_a_quadratic_critic():
    """D(x) = |x|^2 / 2 has the gradient x; learned, the penalty's gradient in D's scale is known too."""
    x, scale = torch.randn(5, 3, 4, 4), torch.tensor(2.0, requires_grad=True)
    penalty = adversarial.r1_penalty(lambda x: scale * x.square().flatten(1).sum(1) / 2, x)
    squares = float(x.square().flatten(1).sum(1).mean())
    assert penalty.item() == pytest.approx(4 * squares, rel=1e-5)
    penalty.backward()
    assert float(scale.grad) == pytest.approx(2 * 2 * squares, rel=1e-5)


def test_adds_distillation_is_weighted_by_sample_and_learns_nothing_through_the_teacher():
    student, teacher = torch.randn(2, 3, 4, 8, 8).unbind()
    student.requires_grad_(), teacher.requires_grad_()
    weight = torch.tensor([0.1, 0.5, 2.0])
    loss = adversarial.add_distillation_loss(student, teacher, weight)
    error = np.square((student - teacher).detach().numpy()).mean((1, 2, 3))
    assert loss.item() == pytest.approx((weight.numpy() * error).mean(), rel=1e-5)
    loss.backward()
    assert teacher.grad is None
    expected = 2 * weight.view(-1, 1, 1, 1) * (student - teacher).detach() / student.numel()
    assert torch.allclose(student.grad, expected, atol=1e-7)


def test_ladds_noise_is_below_its_bound_and_the_schedules():
    noise, x0 = Noise(scaled_linear()), torch.zeros(4000, 1, 2, 2)
    x_t, t = adversarial.ladd_noised(noise, x0, torch.Generator().manual_seed(0))
    assert (int(t.min()), int(t.max())) == (0, 749)
    spread = x_t.flatten(1).square().mean(1)
    assert float((spread / (1 - noise.abar[t])).mean()) == pytest.approx(1, rel=0.03)
