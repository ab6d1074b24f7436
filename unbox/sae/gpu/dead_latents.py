"""The dead latents as a captured step reads them: tensors that stay where they are."""

import torch
from torch import Tensor


class DeadLatents:
    """The dead latents, filled up to a number `size` that a captured step can keep: r ids, n being no latent.

    The tensors stay where they are; `fill` changes what they hold.
    """

    def __init__(self, size: int, n: int, device: torch.device) -> None:
        self.n = n
        self.ids = torch.full((size,), n, device=device)
        self.rows = torch.zeros(size, dtype=torch.int64, device=device)
        """(r,) rows of the weights to read, some row for what is filling."""
        self.bias = torch.zeros(size, device=device)
        """(r,) what is added to the pre-activation: 0, and -infinity for what is filling."""
        self.slot = torch.full((n + 1,), -1, dtype=torch.int32, device=device)
        """(n + 1,) each latent's place among the dead; -1 for the living."""

    def fill(self, ids: Tensor) -> None:
        """Hold these ids (at most r)."""
        self.ids.fill_(self.n)[: len(ids)] = ids
        torch.clamp(self.ids, max=self.n - 1, out=self.rows)
        self.bias.zero_()[len(ids) :] = -torch.inf
        self.slot.fill_(-1)[ids] = torch.arange(len(ids), dtype=torch.int32, device=ids.device)
