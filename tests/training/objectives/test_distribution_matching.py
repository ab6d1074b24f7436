"""DMD2's gradient against its formula in NumPy."""

import numpy as np
import torch

from unbox.training.objectives.distribution_matching import distribution_matching_loss


def test_the_gradient_at_the_picture_is_the_difference_of_scores_over_the_stand_in_norm():
    x0, fake, real = (each.requires_grad_() for each in torch.randn(3, 2, 4, 8, 8, dtype=torch.float64))
    distribution_matching_loss(x0, fake, real).backward()
    a, b, c = (each.detach().numpy() for each in (x0, fake, real))
    norm = np.abs(a - c).mean((1, 2, 3), keepdims=True)
    assert np.allclose(x0.grad.numpy(), (b - c) / norm / a.size, rtol=1e-10)
    assert fake.grad is None
    assert real.grad is None


def test_scores_that_agree_move_nothing():
    x0 = torch.randn(2, 4, 8, 8, requires_grad=True)
    real = torch.randn(2, 4, 8, 8)
    distribution_matching_loss(x0, real, real).backward()
    assert float(x0.grad.abs().max()) == 0.0
    distribution_matching_loss(x0, x0.detach(), x0.detach()).backward()  # a norm of zero too
    assert float(x0.grad.abs().max()) == 0.0
