"""Noise schedules: x_t = a x0 + s eps, what a network predicts at t, weights of the loss, and DDIM moves."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unbox.models.prediction import from_x0, to_x0

Kind = Literal["epsilon", "v_prediction", "sample"]
Weighting = Literal["one", "min-snr"]


def scaled_linear(steps: int = 1000, start: float = 0.00085, end: float = 0.012) -> Tensor:
    """abar of SDXL's own schedule, (steps,) float64."""
    betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def zero_terminal_snr(abar: Tensor) -> Tensor:
    """abar with sqrt(abar) shifted and scaled so that the last is 0 and the first is kept (2305.08891)."""
    root = abar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


@dataclass(frozen=True)
class Noise:
    """A schedule on a device; `abar` (T,) float64, what the network predicts, and the loss's weighting."""

    abar: Tensor
    kind: Kind = "v_prediction"
    weighting: Weighting = "one"
    gamma: float = 5.0
    """Cap of the signal-to-noise ratio (MinSNR)."""
    floor: float = 0.0
    """Least weight: MinSNR leaves none at zero terminal SNR, where pure noise would not be learned."""
    offset: float = 0.0
    """Deviation of what is added to each channel of the noise as a whole (offset noise)."""

    @classmethod
    def sdxl(
        cls, device: torch.device | str = "cpu", kind: Kind = "v_prediction", zero: bool = False
    ) -> "Noise":
        """SDXL's schedule; `zero`: with zero terminal SNR."""
        abar = scaled_linear()
        return cls((zero_terminal_snr(abar) if zero else abar).to(device), kind)

    def at(self, t: Tensor, like: Tensor) -> Tensor:
        """abar of timesteps t (B,) that broadcasts against `like` (B, ...)."""
        return self.abar[t].view(-1, *[1] * (like.ndim - 1))

    def draw(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Unit noise shaped as `like` (B, C, ...), with the offset if there is one."""
        eps = torch.randn(like.shape, generator=generator, device=like.device)
        if not self.offset:
            return eps
        shape = (*like.shape[:2], *[1] * (like.ndim - 2))
        return eps + self.offset * torch.randn(shape, generator=generator, device=like.device)

    def noised(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t (B, ...) from x0 and eps (B, ...), t (B,)."""
        abar = self.at(t, x0)
        return abar.sqrt().to(x0.dtype) * x0 + (1 - abar).sqrt().to(x0.dtype) * eps

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network should say at x_t."""
        if self.kind == "v_prediction":
            abar = self.at(t, x0)
            return abar.sqrt().to(x0.dtype) * eps - (1 - abar).sqrt().to(x0.dtype) * x0
        return eps if self.kind == "epsilon" else x0

    def clean(self, x_t: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """The x0 that a network's output at x_t stands for."""
        return to_x0(output, x_t, self.at(t, x_t), self.kind)

    def output(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The network's output that stands for x0 at x_t: the inverse of `clean`."""
        return from_x0(x0, x_t, self.at(t, x_t), self.kind)

    def move(self, x_t: Tensor, output: Tensor, t: Tensor, to: Tensor) -> Tensor:
        """x at timesteps `to` (B,) by one deterministic (DDIM, eta 0) move; `to` of -1 is x0 itself."""
        x0 = self.clean(x_t, output, t)
        abar, then = self.at(t, x_t), self.at(to.clamp(min=0), x_t)
        eps = (x_t - abar.sqrt().to(x_t.dtype) * x0) / (1 - abar).sqrt().to(x_t.dtype)
        moved = then.sqrt().to(x_t.dtype) * x0 + (1 - then).sqrt().to(x_t.dtype) * eps
        return torch.where((to < 0).view(-1, *[1] * (x_t.ndim - 1)), x0, moved)

    def snr(self, t: Tensor) -> Tensor:
        """abar / (1 - abar), (B,) float64."""
        return self.abar[t] / (1 - self.abar[t])

    def weight(self, t: Tensor) -> Tensor:
        """Weight of the squared error of the network's own output, (B,) float32.

        MinSNR (2303.09556) caps the weight of x0's error at gamma: for v it is min(SNR, gamma) / (SNR + 1),
        for eps min(SNR, gamma) / SNR, for x0 min(SNR, gamma); never under `floor`.
        """
        if self.weighting == "one":
            return torch.ones(t.shape, device=t.device)
        snr = self.snr(t)
        scale = {"v_prediction": snr + 1, "epsilon": snr, "sample": torch.ones_like(snr)}[self.kind]
        capped = snr.clamp(max=self.gamma)
        weight = torch.where(scale > 0, capped / scale.clamp(min=1e-300), torch.ones_like(scale))
        return weight.clamp(min=self.floor).float()
