"""Distribution matching distillation: DMD2 (2405.14867), and the KL arm of Diff-Instruct* (2305.18455)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def distribution_matching_loss(x0: Tensor, fake: Tensor, real: Tensor) -> Tensor:
    """A scalar whose gradient at the generated x0 (B, C, H, W) is (fake - real) / mean|x0 - real|, the mean
    of each sample, divided by the number of elements.

    `fake`, `real`: what the score of generated pictures and the teacher make of x0 noised; neither is learned
    through.
    """
    with torch.no_grad():
        norm = (x0 - real).abs().flatten(1).mean(1).view(-1, *[1] * (x0.ndim - 1))
        gradient = torch.nan_to_num((fake - real) / norm)
    return 0.5 * F.mse_loss(x0, (x0 - gradient).detach())
