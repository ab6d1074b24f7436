"""Artifacts among pictures of any kind: those that lie further from unedited pictures than these from each
other.

The density is by CLIP: of a picture, the mean cosine distance to its five nearest unedited pictures, its own
unedited one left out (it is near whatever an edit did). The threshold is fixed by unedited pictures alone, at
their 95 % quantile, so that 5 % of them count as artifacts.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unbox.errors import UnboxError

#: Nearest unedited pictures, and the share of unedited pictures that count as artifacts.
NEAREST, SHARE = 5, 0.05

#: Pictures compared at once with all unedited ones.
AT_ONCE = 1024


def strangeness_among(pictures: Tensor, unedited: Tensor, own: Sequence[int]) -> np.ndarray:
    """(n,) mean cosine distance of unit vectors (n, dim) to the nearest of (m, dim), `own` of each left out.

    Raises UnboxError for fewer unedited pictures than it takes.
    """
    if len(unedited) <= NEAREST:
        raise UnboxError(
            f"the metric 'density' compares with {NEAREST} unedited pictures beside a picture's own; "
            f"there are {len(unedited)}: take more prompts or seeds"
        )
    found = []
    for start in range(0, len(pictures), AT_ONCE):
        similar = pictures[start : start + AT_ONCE] @ unedited.T
        mine = torch.as_tensor(own[start : start + AT_ONCE], device=similar.device)
        similar.scatter_(1, mine[:, None], -torch.inf)
        found.append(1 - similar.topk(NEAREST, dim=1).values.mean(1))
    return torch.cat(found).cpu().double().numpy()


def artifacts_among(edited: Tensor, unedited: Tensor, own: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) strangeness of edited pictures, and whether each is an artifact; `own`: the unedited one of
    each."""
    usual = strangeness_among(unedited, unedited, range(len(unedited)))
    found = strangeness_among(edited, unedited, own)
    return found, found > artifact_threshold(usual)


def artifact_threshold(usual: np.ndarray, share: float = SHARE) -> float:
    """Strangeness above which a picture is an artifact: `share` of unedited pictures, of which `usual` is
    the strangeness, lie above it, or fewer where there are few."""
    return float(np.quantile(usual, 1 - share, method="higher"))
