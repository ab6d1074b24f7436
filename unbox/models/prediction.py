"""The three things a diffusion UNet may predict, and x0, from one another.

With x_t = sqrt(abar) x0 + sqrt(1 - abar) eps: "epsilon" is eps, "sample" is x0, "v_prediction" is
v = sqrt(abar) eps - sqrt(1 - abar) x0 (arXiv 2202.00512). At abar = 0 only v tells x0, as -v.
"""

import torch

from unbox.errors import UnboxError

KINDS = ("epsilon", "sample", "v_prediction")


def to_x0(output: torch.Tensor, noisy: torch.Tensor, abar: torch.Tensor | float, kind: str) -> torch.Tensor:
    """x0 from a UNet's output of this kind at x_t = `noisy`; `abar` broadcasts against it."""
    alpha, sigma = _factors(abar, noisy)
    if kind == "epsilon":
        return (noisy - sigma * output) / alpha
    return {"sample": output, "v_prediction": alpha * noisy - sigma * output}[_known(kind)]


def from_x0(x0: torch.Tensor, noisy: torch.Tensor, abar: torch.Tensor | float, kind: str) -> torch.Tensor:
    """What a UNet of this kind would say for x0 at x_t = `noisy` (abar below 1 unless kind is "sample")."""
    alpha, sigma = _factors(abar, noisy)
    if kind == "sample":
        return x0
    eps = (noisy - alpha * x0) / sigma
    return {"epsilon": eps, "v_prediction": alpha * eps - sigma * x0}[_known(kind)]


def _factors(abar: torch.Tensor | float, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    value = torch.as_tensor(abar, dtype=torch.float64)
    return value.sqrt().to(like), (1 - value).sqrt().to(like)


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise UnboxError(f"prediction '{kind}' is not one of {', '.join(KINDS)}")
    return kind
