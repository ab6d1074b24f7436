"""Crosscoders: one code for rows of several sources, a decoder for each (Lindsey et al. 2024).

    z = ReLU(BatchTopK(sum over sources of W_enc_s (x_s / sigma_s - b_s) + b_lat))
    x^_s = sigma_s (W_dec_s^T z + b_s)

Training is that of an SAE on rows side by side (`side_by_side`), each source divided by its deviation
sigma_s; the decoder's rows over all sources are unit vectors, so that a latent's shares in the sources are in
one measure. BatchTopK in place of an L1 penalty, after Minder et al. (arXiv 2504.02922), who found that the
penalty makes shared latents look private.
"""

import os
from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt, MinLen
from torch import Tensor, nn

from unbox.errors import UnboxError
from unbox.sae.codes import Codes
from unbox.sae.latent_statistics import ROWS
from unbox.sae.model import SAE
from unbox.sae.side_by_side import SideBySide
from unbox.validation import Count, Name, Real, Several, parsed, validated


@validated
class Sources:
    """`meta["sources"]` of a crosscoder: its sources, in the order of the columns."""

    names: Annotated[Several[Name], MinLen(2)]
    widths: Several[Count]
    factors: Several[Annotated[Real, Gt(0)]]
    """Each source's rows are multiplied by its factor, one over its deviation."""


class Crosscoder(nn.Module):
    """One code for several sources. Made of the SAE that `train` gives for rows `side_by_side`."""

    factors: Tensor
    """(d,) of every column."""

    def __init__(self, sae: SAE) -> None:
        """Raises UnboxError for an SAE that was not trained on rows side by side."""
        super().__init__()
        if "sources" not in sae.meta:
            raise UnboxError(
                f"{sae.name or 'this SAE'} is no crosscoder: it was trained on rows of one source"
            )
        sources = parsed(Sources, sae.meta["sources"], f"{sae.name or 'a crosscoder'}: meta.sources")
        if (
            len({len(sources.names), len(sources.widths), len(sources.factors)}) > 1
            or sum(sources.widths) != sae.width
        ):
            raise UnboxError(f"{sae.name or 'the crosscoder'}: its sources do not fit its width {sae.width}")
        self.sae, self.names, self.widths = sae, sources.names, sources.widths
        factors = torch.tensor(sources.factors).repeat_interleave(torch.tensor(sources.widths))
        self.register_buffer("factors", factors.to(sae.W_dec))

    @classmethod
    def load(cls, folder: str | os.PathLike, device: torch.device | str = "cpu") -> "Crosscoder":
        """Read the folder that `train` wrote."""
        return cls(SAE.load(folder, device))

    def encode(self, rows: Mapping[str, Tensor]) -> Codes:
        """Codes of rows that belong together, (..., width of the source) by name; with gradients."""
        if set(rows) != set(self.names):
            raise UnboxError(
                f"rows are of {', '.join(rows)}; this crosscoder's sources are {', '.join(self.names)}"
            )
        joined = torch.cat([rows[name].to(self.factors) for name in self.names], dim=-1)
        return self.sae.encode(joined * self.factors)

    def decode(self, codes: Codes) -> dict[str, Tensor]:
        """Reconstructions of each source's rows, (..., width of the source)."""
        return dict(
            zip(self.names, (self.sae.decode(codes) / self.factors).split(list(self.widths), -1), strict=True)
        )

    def forward(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Reconstructions of rows that belong together."""
        return self.decode(self.encode(rows))

    def decoder(self, name: str) -> Tensor:
        """(n, width of the source): the latents' directions in one source's rows."""
        return dict(
            zip(self.names, (self.sae.W_dec / self.factors).split(list(self.widths), -1), strict=True)
        )[name]

    def shares(self) -> Tensor:
        """(n, sources): how much of each latent's squared decoder norm is each source's, rows divided by
        their deviations; rows sum to 1. A latent of one source has nearly 1 there, one of two a half each."""
        squares = [part.square().sum(1) for part in self.sae.W_dec.split(list(self.widths), 1)]
        return torch.stack(squares, 1) / torch.stack(squares, 1).sum(1, keepdim=True)

    @torch.no_grad()
    def fvu(self, rows: SideBySide, limit: int = 65_536) -> dict[str, float]:
        """Fraction of variance unexplained of each source, on up to `limit` rows side by side."""
        x = torch.from_numpy(np.ascontiguousarray(rows.sample(limit, 1), np.float32))
        error = torch.cat([part - self.sae(part.to(self.sae.W_dec)).cpu() for part in x.split(ROWS)])
        deviation = (x - x.mean(0)).double().square().sum(0).split(list(self.widths))
        left = error.double().square().sum(0).split(list(self.widths))
        return {n: float(a.sum() / b.sum()) for n, a, b in zip(self.names, left, deviation, strict=True)}
