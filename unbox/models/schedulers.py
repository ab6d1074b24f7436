"""The two schedules that diffusers lacks, on diffusers' own samplers."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import (
    EulerDiscreteScheduler,
    EulerDiscreteSchedulerOutput,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from unbox.errors import UnboxError
from unbox.models.prediction import to_x0

#: Sigma that stands for infinity in NovelAI V3's schedule (arXiv 2409.15997).
V3_SIGMA_MAX = 20000.0


def sigma_max_for(height: int, width: int, sigma_max: float, side: int = 1024) -> float:
    """NovelAI V3's rule: twice the canvas side, twice sigma_max; `sigma_max` holds at `side` squared pixels.

    Below that area sigma_max is not lowered.
    """
    return sigma_max * max(1.0, math.sqrt(height * width) / side)


class TurboGridScheduler(EulerAncestralDiscreteScheduler):
    """Euler ancestral on the grid of Stability's SDXL Turbo demo: timesteps 999, 899, 799, 699, then sigma 0.

    At one step it is the trailing grid; beyond that it stays at high noise (trailing has 999, 749, 499, 249).
    """

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Lay the grid of 1 to 4 steps."""
        if not 1 <= num_inference_steps <= 4:
            raise UnboxError(f"the Turbo demo grid has 1 to 4 steps, not {num_inference_steps}")
        super().set_timesteps(num_inference_steps, device)
        timesteps = 999 - 100 * torch.arange(num_inference_steps)
        abar = self.alphas_cumprod.cpu()[timesteps]
        self.sigmas = torch.cat([((1 - abar) / abar) ** 0.5, torch.zeros(1)])
        self.timesteps = timesteps.to(device=device, dtype=torch.float32)


class NativeEulerScheduler(EulerDiscreteScheduler):
    """Euler on k-diffusion's native schedule: timesteps evenly from 999 to 0, log sigmas interpolated.

    With `rescale_betas_zero_snr` the terminal sigma is `zero_snr_sigma` instead of the 4096 that diffusers
    puts there. Latents stay float32 from the first noise (20000 times unit noise overflows float16) to the
    last step, and are cast to `model_dtype` only where the UNet reads them.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        prediction_type: str = "v_prediction",
        rescale_betas_zero_snr: bool = True,
        zero_snr_sigma: float = V3_SIGMA_MAX,
        model_dtype: str = "float32",
        steps_offset: int = 0,
    ) -> None:
        super().__init__(
            num_train_timesteps,
            beta_start,
            beta_end,
            beta_schedule,
            prediction_type=prediction_type,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
            timestep_spacing="linspace",
        )
        self.set_sigma_max(zero_snr_sigma)

    def set_sigma_max(self, sigma: float) -> None:
        """Set the terminal sigma of a zero-terminal-SNR schedule, for a canvas of another size."""
        if self.config["rescale_betas_zero_snr"]:
            self.alphas_cumprod[-1] = 1 / (1 + sigma**2)

    @contextmanager
    def with_sigma_max(self, sigma: float) -> Iterator[None]:
        """The same until the context ends: other runs begin where the weights were trained to."""
        before = self.alphas_cumprod.clone()
        self.set_sigma_max(sigma)
        try:
            yield
        finally:
            self.alphas_cumprod.copy_(before)

    @property
    def init_noise_sigma(self) -> torch.Tensor:
        """First sigma, float32 (1,); the initial latents are unit noise times this.

        A dimension more than diffusers' own: torch promotes half-precision noise to float32 for it.
        """
        return self.sigmas.max().reshape(1).to(self.timesteps.device)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
    ) -> None:
        """Lay `num_inference_steps` timesteps; own `timesteps` or `sigmas` are not part of this schedule."""
        if num_inference_steps is None or timesteps is not None or sigmas is not None:
            raise UnboxError("the native schedule is laid by a number of steps, not by timesteps or sigmas")
        super().set_timesteps(num_inference_steps, device)
        last = self.config["num_train_timesteps"] - 1
        grid = np.linspace(last, 0, num_inference_steps)
        abar = self.alphas_cumprod.cpu().double().numpy()
        log_sigmas = 0.5 * (np.log1p(-abar) - np.log(abar))
        laid = np.append(np.exp(np.interp(grid, np.arange(last + 1), log_sigmas)), 0.0)
        self.sigmas = torch.from_numpy(laid).float()
        self.timesteps = torch.from_numpy(grid).to(device=device, dtype=torch.float32)

    def scale_model_input(self, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        """Divide by sqrt(sigma^2 + 1) in float32, then cast to what the UNet reads."""
        dtype = getattr(torch, self.config["model_dtype"])
        return super().scale_model_input(sample.float(), timestep).to(dtype)

    def step(  # type: ignore[override]
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> EulerDiscreteSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Euler's step in float32; the last one returns the model's dtype, for the decoder. Draws no noise.

        Written x0 + (sigma_next / sigma) (x - x0), which is x + (x - x0) / sigma (sigma_next - sigma) without
        its cancellation, which from sigma 20000 to 56 costs float32 two digits (docs/LOG.md).
        """
        if self.step_index is None:
            self._init_step_index(timestep)
        now, after = (float(sigma) for sigma in self.sigmas[self.step_index : self.step_index + 2])
        x, scale = sample.float(), (now**2 + 1) ** 0.5
        x0 = to_x0(model_output.float(), x / scale, scale**-2, self.config["prediction_type"])
        following = x0 + (after / now) * (x - x0)
        self._step_index += 1  # type: ignore[assignment,operator]
        if after == 0:
            following = following.to(model_output.dtype)
        if not return_dict:
            return following, x0
        return EulerDiscreteSchedulerOutput(prev_sample=following, pred_original_sample=x0)


_CLASSES = {cls.__name__: cls for cls in (TurboGridScheduler, NativeEulerScheduler)}


def scheduler_class(name: str) -> type:
    """diffusers' scheduler of that name, or one of this module's."""
    cls = _CLASSES.get(name) or getattr(diffusers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, SchedulerMixin)):
        raise UnboxError(f"there is no scheduler '{name}' in diffusers or among {', '.join(_CLASSES)}")
    return cls
