"""The ordinary diffusion loss, and regression on (noise, sample) pairs."""

from collections.abc import Callable

from torch import Tensor

from unbox.training.noise import Noise

#: A network with its conditioning bound: (x_t (B, C, H, W), t (B,)) -> its output, float32.
Predict = Callable[[Tensor, Tensor], Tensor]


def diffusion_loss(
    predict: Predict, noise: Noise, x0: Tensor, eps: Tensor, t: Tensor, places: Tensor | None = None
) -> Tensor:
    """Weighted squared error of what the network predicts at x_t; a scalar.

    x0, eps (B, C, H, W); t (B,); places (B, 1, H, W): how much each place counts, its mean divided out.
    """
    error = (predict(noise.noised(x0, eps, t), t) - noise.target(x0, eps, t)).square()
    error = error * noise.weight(t).view(-1, 1, 1, 1)
    return error.mean() if places is None else (places * error).mean() / places.mean()


def regression_loss(
    predict: Predict, noise: Noise, x_t: Tensor, x0: Tensor, t: Tensor, places: Tensor | None = None
) -> Tensor:
    """Squared error of the x0 that the network's output at a given x_t stands for; a scalar, shapes as
    above."""
    error = (noise.clean(x_t, predict(x_t, t), t) - x0).square()
    return error.mean() if places is None else (places * error).mean() / places.mean()
