"""Timesteps and sigmas of a run by their formulas, in float64 and sharing no line with the schedulers.

    abar_t = prod (1 - beta_s) for s <= t, beta = linspace(sqrt(start), sqrt(end), T)^2
    sigma_t = sqrt((1 - abar_t) / abar_t)

Timesteps (T trained ones, n steps) are `trailing`: T - i T / n - 1, `leading`: i (T // n) + offset, or
`linspace`; NovelAI V3's are evenly from T - 1 to 0, its sigmas interpolated in their logarithm, with zero
terminal signal to noise (arXiv 2305.08891) and a number in the place of infinity.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from unbox.json_types import JSON

#: Schedulers whose grid is that of their `timestep_spacing`, and options that make another of it.
SPACED = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DDIMScheduler")
OTHERS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "trained_betas")
#: First timesteps of Stability's demo of SDXL Turbo.
DEMO = (999, 899, 799, 699)


class SigmaTable(NamedTuple):
    """(steps,) each, the first step first."""

    timesteps: np.ndarray
    sigmas: np.ndarray


def formula_of(
    scheduler: str, config: Mapping[str, JSON], steps: int, grid: tuple[int, ...] | None
) -> SigmaTable | None:
    """The table of a scheduler's class and configuration; None where there is no formula here.

    `grid`: timesteps that the system fixes."""
    plain = config.get("beta_schedule") == "scaled_linear" and not any(config.get(name) for name in OTHERS)
    if not plain:
        return None
    trained = int(str(config["num_train_timesteps"]))
    start, end = (float(str(config[name])) ** 0.5 for name in ("beta_start", "beta_end"))
    kept = np.cumprod(1 - np.linspace(start, end, trained) ** 2)
    if scheduler == "NativeEulerScheduler":
        timesteps = np.linspace(trained - 1, 0, steps)
        if config.get("rescale_betas_zero_snr"):
            kept = _zero_terminal(kept, float(str(config["zero_snr_sigma"])))
        logs = np.interp(timesteps, np.arange(trained), np.log((1 - kept) / kept) / 2)
        return SigmaTable(timesteps, np.exp(logs))
    if config.get("rescale_betas_zero_snr"):
        return None
    spaced = _timesteps(scheduler, config, steps, grid, trained)
    if spaced is None:
        return None
    return SigmaTable(spaced, np.interp(spaced, np.arange(trained), np.sqrt((1 - kept) / kept)))


def _timesteps(
    scheduler: str, config: Mapping[str, JSON], steps: int, grid: tuple[int, ...] | None, trained: int
) -> np.ndarray | None:
    if grid is not None:
        return np.array(grid, float)
    if scheduler == "TurboGridScheduler":
        return np.array(DEMO[:steps], float)
    if scheduler not in SPACED:
        return None
    spacing = config.get("timestep_spacing")
    if spacing == "trailing":
        return np.round(trained - np.arange(steps) * (trained / steps)) - 1
    if spacing == "leading":
        return (np.arange(steps) * (trained // steps))[::-1] + float(str(config.get("steps_offset", 0)))
    return np.linspace(trained - 1, 0, steps) if spacing == "linspace" else None


def _zero_terminal(kept: np.ndarray, sigma: float) -> np.ndarray:
    """sqrt(abar) shifted to 0 at the end and scaled to keep its beginning; at the end itself `sigma`."""
    root = np.sqrt(kept)
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return np.append(root[:-1] ** 2, 1 / (1 + sigma**2))
