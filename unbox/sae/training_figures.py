"""Figures of an SAE while it is trained: on rows kept from training, and of its gradient."""

from collections.abc import Mapping

import torch
from torch import Tensor

from unbox.sae import sparse
from unbox.sae.evaluate import DENSE, density_histogram
from unbox.sae.train_step import BETAS, SAETrainer

#: Rows kept from training that a line of metrics is taken on, at most; also at most a quarter of those that
#: were trained on since the line before, so that looking takes about a tenth of the time.
LOOKED_AT = 16_384


@torch.no_grad()
def held_out_figures(fit: SAETrainer, x: Tensor, whole: int) -> dict[str, float | list[int]]:
    """FVU and L0 on x (B, d), this process's share of `whole` scaled rows, chosen as in training; how often
    latents fire there: the histogram of `evaluate.Figures`, and the part that fires in over a tenth."""
    w, team = fit.weights, fit.team
    centred = x - w["b_pre"]
    active, known = fit._topk(centred, whole)
    pre = sparse.dots(centred, active, w["W_enc"]) + w["b_lat"][active.indices] if known is None else known
    decoded = sparse.mix(pre.relu(), active, w["W_dec"])
    team.latents.sum_(decoded)
    fired = torch.zeros(len(w["b_lat"]), dtype=torch.float64, device=x.device)
    fired.index_add_(0, active.indices, (pre > 0).double())
    total = torch.stack([x.sum(0, dtype=torch.float64), x.square().sum(0, dtype=torch.float64)])
    error = (decoded - centred).square().sum(dtype=torch.float64)
    team.rows.sum_(fired, total, error)
    density = torch.cat([one.cpu() for one in team.latents.gather(fired)]) / whole
    variance = float((total[1] - total[0].square() / whole).sum())
    return {
        "held_out_fvu": float(error) / variance if variance > 0 else 0.0,
        "held_out_l0": float(density.sum()),
        "dense_fraction": float((density > DENSE).double().mean()),
        "density_histogram": list(density_histogram(density)),
    }


def first_moments(fit: SAETrainer) -> dict[str, Tensor]:
    """Copies of Adam's means of the gradients, for `gradient_norm` after a step."""
    return {name: mean.clone() for name, (mean, _) in fit.moments.items()}


def gradient_norm(fit: SAETrainer, before: Mapping[str, Tensor]) -> float:
    """Norm of the gradient of the step just taken, as Adam was given it: with AuxK, summed over processes,
    after clipping, the decoder's without its radial part.

    It is read from Adam's means, m' = beta m + (1 - beta) g, however the step was taken; `before`:
    `first_moments` from before it, which is overwritten.
    """
    beta, squares = BETAS[0], {}
    for name, mean in before.items():
        gradient = mean.mul_(-beta).add_(fit.moments[name][0])
        squares[name] = torch.linalg.vector_norm(gradient, dtype=torch.float64).square()
    own = torch.stack([value for name, value in squares.items() if name != "b_pre"]).sum()
    fit.team.latents.sum_(own)
    return float((own + squares["b_pre"]).sqrt()) / (1 - beta)
