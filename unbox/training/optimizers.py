"""Optimizers: Muon for matrices in batches of one shape, AdamW for the rest."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from unbox.models.bf16_support import multiplies_bf16

#: Coefficients of the quintic Newton-Schulz iteration (Jordan et al. 2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Near-orthogonal factors of a batch of matrices (n, rows, columns), computed in bfloat16 where
    the device multiplies it."""
    x = matrices.bfloat16() if multiplies_bf16(matrices.device) else matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.mT if tall else x


class BatchedMuon(torch.optim.Optimizer):
    """`torch.optim.Muon` (nesterov, its rate matched to AdamW's) with one batched product for all
    parameters of a
    shape: a UNet's two hundred matrices take some hundreds of launches a step instead of thousands.
    Convolutions are taken as matrices (out, in x height x width)."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[tuple(p.shape)].append(p)
            for shape, same in shapes.items():
                rows, columns = shape[0], math.prod(shape[1:])
                grads = [p.grad for p in same if p.grad is not None]
                for p, grad in zip(same, grads, strict=True):
                    if "momentum_buffer" not in self.state[p]:
                        self.state[p]["momentum_buffer"] = torch.zeros_like(grad)
                buffers = [self.state[p]["momentum_buffer"] for p in same]
                torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
                ahead = torch.stack(torch._foreach_lerp(grads, buffers, group["momentum"]))
                moved = orthogonal(ahead.reshape(len(same), rows, columns)).to(same[0].dtype)
                scale = -group["lr"] * 0.2 * math.sqrt(max(rows, columns))
                torch._foreach_add_(same, list(moved.reshape(len(same), *shape).unbind()), alpha=scale)


def matrices_and_rest(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trainable parameters that Muon takes (at least two axes, embeddings left out), and the others."""
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2 and id(p) not in tables]
    chosen = {id(p) for p in matrices}
    return matrices, [p for p in trained if id(p) not in chosen]


def muon(module: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of a module, AdamW without decay for the rest, at one rate."""
    matrices, rest = matrices_and_rest(module)
    parts: list[torch.optim.Optimizer] = [BatchedMuon(matrices, rate)] if matrices else []
    return parts + (adamw_of(rest, rate, 0.0) if rest else [])


def adamw(module: nn.Module, rate: float, decay: float = 0.01) -> list[torch.optim.Optimizer]:
    """AdamW for everything that is trained; `decay` for matrices only."""
    matrices, rest = matrices_and_rest(module)
    return [*adamw_of(matrices, rate, decay), *adamw_of(rest, rate, 0.0)]


def adamw_of(parameters: list[nn.Parameter], rate: float, decay: float) -> list[torch.optim.Optimizer]:
    """One AdamW, of no parameters none; fused where they are on a GPU."""
    if not parameters:
        return []
    fused = parameters[0].is_cuda
    return [torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=decay, fused=fused)]
