"""Do two trainings find the same features? Decoder directions matched one to one, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from unbox.errors import UnboxError
from unbox.sae.model import SAE
from unbox.statistics import bootstrap


@dataclass(frozen=True)
class Agreement:
    """How alike two dictionaries are."""

    matched: float
    """Mean cosine over the best one-to-one matching (Hungarian) of the smaller into the larger."""
    interval: tuple[float, float]
    """95 % bootstrap interval over latents."""
    nearest: float
    """Mean largest cosine (MMCS): every latent of the first with its nearest of the second."""
    shared: float
    """Part of the matched pairs with a cosine over 0.7."""


def matching(first: Tensor, second: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """One-to-one matching of rows (n, d) and (m, d) with the largest sum of cosines.

    Returns for the smaller set's rows in order: the other's row (min(n, m),), and the cosines.
    """
    cosines = (_unit(first) @ _unit(second).T).numpy()
    cosines = cosines.T if len(first) > len(second) else cosines
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    return columns, cosines[rows, columns]


def agreement(first: SAE, second: SAE, seed: int = 0) -> Agreement:
    """Compares two SAEs of one width. Latents that were never active are left out where that is known.

    Takes n x m floats and time of order n^3: 5,120 latents take some ten seconds.
    """
    if first.width != second.width:
        raise UnboxError(f"SAEs of widths {first.width} and {second.width} cannot be compared")
    a, b = _living(first), _living(second)
    if not len(a) or not len(b):
        raise UnboxError("an SAE without a living latent has no features to compare")
    _, cosines = matching(a, b)
    matched = bootstrap(cosines, draws=1000, seed=seed)
    nearest, shared = float((_unit(a) @ _unit(b).T).amax(1).mean()), float((cosines > 0.7).mean())
    return Agreement(matched.mean, (matched.low, matched.high), nearest, shared)


def seed_stability(saes: Sequence[SAE]) -> list[tuple[str, str, Agreement]]:
    """Every pair of SAEs, by name."""
    return [(a.name, b.name, agreement(a, b)) for a, b in combinations(saes, 2)]


def stability_table(pairs: Sequence[tuple[str, str, Agreement]]) -> str:
    """Markdown: one line a pair."""
    head = "| SAE | SAE | matched cosine, 95 % interval | nearest (MMCS) | pairs over 0.7 |"
    lines = [
        f"| {a} | {b} | {x.matched:.3f}, {x.interval[0]:.3f} to {x.interval[1]:.3f} | {x.nearest:.3f} | "
        f"{x.shared:.1%} |"
        for a, b, x in pairs
    ]
    return "\n".join([head, "|" + " --- |" * 5, *lines]) + "\n"


def _unit(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows.detach().float().cpu(), dim=1)


def _living(sae: SAE) -> Tensor:
    return sae.W_dec if sae.stats is None else sae.W_dec[(sae.stats.density > 0).to(sae.W_dec.device)]
