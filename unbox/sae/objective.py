"""What training minimises, in plain dense torch with autograd: the definition, short enough to be read.

    loss = mean over nested reconstructions x^_l of  sum |x - x^_l|^2 / (B variance)   +   AuxK

Training takes the same step by sparse operations, many times faster; its tests compare every gradient with
autograd's of these. Here whole arrays (B, n) are made: for tests, for small problems, and for reading.

Weights are a mapping of `W_enc` (n, d), `W_dec` (n, d), `b_pre` (d,) and `b_lat` (n,).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from unbox.errors import UnboxError

Weights = Mapping[str, Tensor]


def pre_activations(x: Tensor, weights: Weights) -> Tensor:
    """(B, n) of rows x (B, d)."""
    return (x - weights["b_pre"]) @ weights["W_enc"].T + weights["b_lat"]


def decode(codes: Tensor, weights: Weights) -> Tensor:
    """(B, d) of codes (B, n)."""
    return codes @ weights["W_dec"] + weights["b_pre"]


def topk(pre: Tensor, k: int) -> Tensor:
    """Codes (B, n): the k largest of each row, after the ReLU (Gao et al., arXiv 2406.04093)."""
    largest = pre.topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, largest.indices, largest.values.relu())


def batchtopk(pre: Tensor, k: int) -> Tensor:
    """Codes (B, n): the k B largest of the batch, after the ReLU (Bussmann et al., arXiv 2412.06410)."""
    flat = pre.relu().flatten()
    largest = flat.topk(k * len(pre))
    return torch.zeros_like(flat).scatter(0, largest.indices, largest.values).view_as(pre)


def matryoshka(pre: Tensor, k: int, levels: tuple[int, ...]) -> list[Tensor]:
    """BatchTopK's codes, of the first `levels` latents each (Bussmann et al., arXiv 2503.17547)."""
    codes, latent = batchtopk(pre, k), torch.arange(pre.shape[1], device=pre.device)
    return [codes * (latent < level) for level in levels]


#: Variant -> (pre-activations, k, levels) -> codes (B, n) of each nested reconstruction.
NESTED_CODES: dict[str, Callable[[Tensor, int, tuple[int, ...]], list[Tensor]]] = {
    "topk": lambda pre, k, levels: [topk(pre, k)],
    "batchtopk": lambda pre, k, levels: [batchtopk(pre, k)],
    "matryoshka": matryoshka,
    "multik": lambda pre, k, levels: [topk(pre, level) for level in levels],  # arXiv 2505.24473
}


def sae_loss(
    x: Tensor, weights: Weights, variant: str, k: int, levels: tuple[int, ...] = (), variance: float = 1.0
) -> Tensor:
    """Squared error of rows x (B, d), over their number and `variance`, E |x - E x|^2; the mean over the
    nested reconstructions."""
    if variant not in NESTED_CODES:
        raise UnboxError(f"no variant '{variant}'; there are {', '.join(NESTED_CODES)}")
    nested = NESTED_CODES[variant](pre_activations(x, weights), k, levels)
    errors = torch.stack([(decode(codes, weights) - x).square().sum() for codes in nested])
    return errors.mean() / (len(x) * variance)


def auxk_loss(x: Tensor, weights: Weights, error: Tensor, dead: Tensor, kappa: int | None = None) -> Tensor:
    """AuxK (arXiv 2406.04093, appendix A.2), before its coefficient: dead latents explain what is left over.

    |e - D top_kappa(pre-activations of the dead)|^2 / |e - mean e|^2, with `error` e = x - x^ (B, d) taken as
    given, no bias, the model's ReLU; `dead` (r,) ids. kappa: d / 2 unless given, at most r.
    """
    e = error.detach()
    codes = topk(pre_activations(x, weights)[:, dead], min(kappa or max(1, x.shape[1] // 2), len(dead)))
    left = e - codes @ weights["W_dec"][dead]
    return left.square().sum() / (e - e.mean(0)).square().sum()


class _Jump(torch.autograd.Function):
    """z H(z - theta), with the pseudo-gradient of arXiv 2407.14435 by theta: a rectangle of a bandwidth."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, d_codes: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        d_threshold = -(threshold / ctx.bandwidth) * (d_codes * near).sum(0)
        return d_codes * (pre > threshold), d_threshold, None


class _Step(torch.autograd.Function):
    """H(z - theta), with a pseudo-gradient by theta alone."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre)

    @staticmethod
    def backward(ctx: Any, d_on: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        return None, -(d_on * near).sum(0) / ctx.bandwidth, None


def jumprelu(pre: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """Codes (B, n) over thresholds (n,), and which are active, 0 or 1; both with pseudo-gradients."""
    return _Jump.apply(pre, threshold, bandwidth), _Step.apply(pre, threshold, bandwidth)


def jumprelu_loss(
    x: Tensor, weights: Weights, k: int, bandwidth: float, sparsity: float, variance: float = 1.0
) -> Tensor:
    """JumpReLU (Rajamanoharan et al., arXiv 2407.14435): squared error, and sparsity (L0 / k - 1)^2 of the
    batch's mean L0. `weights` have `log_threshold` (n,) too."""
    codes, on = jumprelu(pre_activations(x, weights), weights["log_threshold"].exp(), bandwidth)
    error = (decode(codes, weights) - x).square().sum() / (len(x) * variance)
    return error + sparsity * (on.sum() / len(x) / k - 1).square()


def gated(x: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """Codes (B, n) of a gated SAE, and its gates before they are cut at 0: `W_enc` is the gates', magnitudes
    have exp(r_mag) times that and the bias `b_lat`; `r_mag` and `b_gate` are (n,)."""
    u = (x - weights["b_pre"]) @ weights["W_enc"].T
    gate = u + weights["b_gate"]
    return (gate > 0) * (weights["r_mag"].exp() * u + weights["b_lat"]).relu(), gate


def gated_loss(x: Tensor, weights: Weights, sparsity: Tensor | float, variance: float = 1.0) -> Tensor:
    """Gated (Rajamanoharan et al., arXiv 2404.16014): squared error; the gates' L1, over sqrt(variance); and
    the squared error of decoding the gates themselves, by a decoder that is not trained by it."""
    codes, gate = gated(x, weights)
    frozen = {name: weight.detach() for name, weight in weights.items()}
    errors = (decode(codes, weights) - x).square().sum() + (decode(gate.relu(), frozen) - x).square().sum()
    return (errors / variance + sparsity * gate.relu().sum() / variance**0.5) / len(x)
