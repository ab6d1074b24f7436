"""The kinds of SAE: how winners are chosen, and which nested reconstructions the loss averages.

All share one model, one set of sparse operations and one trainer; a new kind is a new row of `VARIANTS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from unbox.errors import UnboxError
from unbox.sae import sparse
from unbox.sae.sparse import Active

#: Default nested prefixes of Matryoshka, as fractions of n (about those of arXiv 2503.17547).
PREFIXES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
#: Default nested numbers of active latents, as fractions of k.
NESTED_K = (1 / 4, 1 / 2, 1)


@dataclass(frozen=True)
class Variant:
    """One kind of SAE."""

    about: str
    batchwise: bool
    """Winners are chosen over the batch, k a row on average, and a threshold exported; else k in each."""
    learns_threshold: bool = False
    """Each latent's threshold is trained (`threshold_step`), not calibrated at the end."""
    level: Callable[[Active, int, tuple[int, ...], int], Tensor] | None = None
    """(active, k, levels, first latent) -> (E,) int: first nested reconstruction of each entry."""
    fractions: tuple[float, ...] = ()
    """Default levels, as fractions of what they divide."""
    divides: str = ""
    """What the levels divide: `latents` or `k`."""

    def levels(self, asked: tuple[int, ...], k: int, latents: int) -> tuple[int, ...]:
        """The levels in full, ascending; the last is the whole. Raises UnboxError where they do not fit."""
        whole = {"latents": latents, "k": k}.get(self.divides, 0)
        if not self.fractions:
            if asked:
                raise UnboxError(f"levels {asked} have no meaning for this variant: {self.about}")
            return ()
        levels = asked or tuple(sorted({max(1, round(f * whole)) for f in self.fractions}))
        if list(levels) != sorted(set(levels)) or levels[0] < 1 or levels[-1] != whole:
            raise UnboxError(f"levels {levels} must ascend from at least 1 to {self.divides} = {whole}")
        return levels


VARIANTS: dict[str, Variant] = {
    "topk": Variant("the k largest of each row (Gao et al., arXiv 2406.04093)", batchwise=False),
    "batchtopk": Variant("the k B largest of a batch, then a threshold (arXiv 2412.06410)", batchwise=True),
    "matryoshka": Variant(
        "BatchTopK whose nested prefixes of latents each reconstruct (arXiv 2503.17547)",
        batchwise=True,
        level=sparse.by_prefix,
        fractions=PREFIXES,
        divides="latents",
    ),
    "multik": Variant(
        "TopK whose first k1 < k2 < ... < k winners each reconstruct (arXiv 2505.24473)",
        batchwise=False,
        level=sparse.by_rank,
        fractions=NESTED_K,
        divides="k",
    ),
    "jumprelu": Variant(
        "a threshold for each latent, learnt (arXiv 2407.14435)", batchwise=True, learns_threshold=True
    ),
    "gated": Variant(
        "a gate and a magnitude for each latent, learnt (arXiv 2404.16014)",
        batchwise=True,
        learns_threshold=True,
    ),
}


def variant(name: str) -> Variant:
    """The row of `VARIANTS`; raises UnboxError for a name that is not there."""
    if name not in VARIANTS:
        raise UnboxError(f"no variant '{name}'; there are {', '.join(VARIANTS)}")
    return VARIANTS[name]
