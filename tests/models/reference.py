"""A second path to the same latents: k-diffusion's form in float64, sharing no line with the schedulers.

k-diffusion (arXiv 2206.00364): x = x0 + sigma n, and a denoiser D(x; sigma) = c_skip x + c_out F(c_in x).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch

Denoiser = Callable[[torch.Tensor, float], torch.Tensor]


def alphas_bar(terminal_sigma: float | None = None) -> np.ndarray:
    """SDXL's abar, float64 (1000,); with `terminal_sigma` rescaled to zero terminal SNR and ended there."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    abar = np.cumprod(1 - betas)
    if terminal_sigma is None:
        return abar
    root = np.sqrt(abar)
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return np.append(root[:-1] ** 2, 1 / (1 + terminal_sigma**2))


def sigmas_of(abar: np.ndarray) -> np.ndarray:
    return np.sqrt((1 - abar) / abar)


def trailing(steps: int) -> np.ndarray:
    """Table 2 of arXiv 2305.08891, counted from 0."""
    return np.round(np.arange(1000, 0, -1000 / steps)) - 1


def leading(steps: int) -> np.ndarray:
    return np.arange(steps)[::-1] * (1000 // steps) + 1


def k_denoiser(
    forward: Callable[[torch.Tensor, float], torch.Tensor], kind: str, time_of: Callable[[float], float]
) -> Denoiser:
    """EDM's D around a UNet `forward(x_in, t)` that predicts `kind`; `time_of`: timestep of a sigma."""

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        output = forward((x / (sigma**2 + 1) ** 0.5).float(), time_of(sigma)).double()
        if kind == "epsilon":
            return x - sigma * output
        if kind == "v_prediction":
            return x / (sigma**2 + 1) - sigma / (sigma**2 + 1) ** 0.5 * output
        return output

    return denoise


def euler(denoise: Denoiser, x: torch.Tensor, sigmas: Sequence[float]) -> torch.Tensor:
    """Algorithm 2 of arXiv 2206.00364 without churn and second order."""
    for now, after in pairwise(sigmas):
        x = x + (x - denoise(x, now)) / now * (after - now)
    return x


def euler_ancestral(
    denoise: Denoiser, x: torch.Tensor, sigmas: Sequence[float], noise: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """Euler down to sigma_down, then fresh noise of sigma_up: variances add up to the next sigma's."""
    for now, after in pairwise(sigmas):
        up = (after**2 * (now**2 - after**2) / now**2) ** 0.5
        down = (after**2 - up**2) ** 0.5
        x = x + (x - denoise(x, now)) / now * (down - now)
        if after > 0:
            x = x + up * noise().double()
    return x


def consistency_timesteps(steps: int) -> np.ndarray:
    """Of consistency distillation's 50 timesteps 999, 979, ..., 19 each (50 / steps)-th, rounded down."""
    return 999 - 20 * np.floor(50 * np.arange(steps) / steps).astype(int)


def singlestep_timesteps(steps: int) -> np.ndarray:
    """The first `steps` of `steps` + 1 timesteps spread from 999 to 0."""
    return np.round(999 * np.arange(steps, 0, -1) / steps)


def moves(
    denoise: Denoiser,
    x: torch.Tensor,
    levels: Sequence[tuple[float, float, float]],
    noise: Callable[[], torch.Tensor],
) -> torch.Tensor:
    """Each step on the line from x to D(x) from sigma `now` to `down`, then fresh noise up to `after`."""
    for now, down, after in levels:
        x = x + (x - denoise(x, now)) / now * (down - now)
        if after > down:
            x = x + (after**2 - down**2) ** 0.5 * noise().double()
    return x


def dpm_2s(denoise: Denoiser, x: torch.Tensor, sigmas: Sequence[float]) -> torch.Tensor:
    """DPM-Solver++(2S), arXiv 2211.01095 algorithm 1: two sigmas to a step of second order.

    Of first order is the last one, of an even number the last two."""
    pairs = (len(sigmas) - 2) // 2
    for a, b, c in zip(sigmas[: 2 * pairs : 2], sigmas[1::2], sigmas[2::2], strict=False):
        first = denoise(x, a)
        second = denoise((b / a) * x + (1 - b / a) * first, b)
        share = np.log(a / b) / np.log(a / c)
        x = (c / a) * x + (1 - c / a) * (first + (second - first) / (2 * share))
    for a, b in pairwise(sigmas[2 * pairs :]):
        x = (b / a) * x + (1 - b / a) * denoise(x, a)
    return x


def consistency(
    forward: Callable[[torch.Tensor, float], torch.Tensor],
    x: torch.Tensor,
    timesteps: Sequence[int],
    noise: Callable[[], torch.Tensor],
) -> torch.Tensor:
    """x0 = (x_t - sqrt(1-abar) eps) / sqrt(abar) at each timestep, noised again to the next one."""
    abar = alphas_bar()
    x0 = x
    for i, t in enumerate(timesteps):
        eps = forward(x.float(), t).double()
        x0 = (x - (1 - abar[t]) ** 0.5 * eps) / abar[t] ** 0.5
        if i + 1 < len(timesteps):
            after = abar[timesteps[i + 1]]
            x = after**0.5 * x0 + (1 - after) ** 0.5 * noise().double()
    return x0
