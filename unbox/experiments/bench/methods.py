"""What is compared: dictionaries of directions, and how each says "this value".

Every method gives a direction in a block's update space for a factor value, made the same way: the features
that differ most between rows with and without the value, weighted by how much they differ. Only the
dictionary changes, so that a difference in success is the dictionary's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unbox.edits import Basis, Direction, Edits, neurons, principal
from unbox.experiments.effects import FeatureSet, random_set
from unbox.sae import SAE
from unbox.sae.model import Stats

#: Dictionaries that are compared, and the two directions that are none.
DICTIONARIES = ("sae", "untrained", "neurons", "pca")
METHODS = (*DICTIONARIES, "steering", "random")


def dictionaries(sae: SAE, sample: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """The dictionaries of a block, by name. `sample` (m, d): updates, for their mean and components."""
    return {
        "sae": sae,
        "untrained": untrained(sae, sample, seed),
        "neurons": neurons(sae.block, sample),
        "pca": principal(sae.block, sample),
    }


def untrained(sae: SAE, sample: np.ndarray, seed: int = 0) -> SAE:
    """An SAE of the same shape as it is before training: random unit decoder, its transpose as the encoder,
    the updates' mean as the bias."""
    draw = torch.Generator().manual_seed(seed)
    weights = torch.nn.functional.normalize(torch.randn(sae.latents, sae.width, generator=draw), dim=1)
    rows = torch.from_numpy(np.asarray(sample, np.float32))
    blank = SAE(
        W_enc=weights,
        W_dec=weights,
        b_pre=rows.mean(0),
        b_lat=torch.zeros(sae.latents),
        k=sae.k,
        block=sae.block,
        name="untrained",
        update_std=sae.update_std,
    )
    codes = blank.encode(rows)
    values, indices = codes.values.flatten(), codes.indices.flatten()
    count = torch.zeros(sae.latents).index_add(0, indices, (values > 0).float())
    mean = torch.zeros(sae.latents).index_add(0, indices, values) / count.clamp(min=1)
    square = torch.zeros(sae.latents).index_add(0, indices, values**2) / count.clamp(min=1)
    peak = torch.zeros(sae.latents).scatter_reduce(0, indices, values, "amax")
    stats = Stats(mean, (square - mean**2).clamp(min=0).sqrt(), peak, count / len(rows))
    return SAE(**{**vars(blank), "stats": stats})


@dataclass(frozen=True)
class Vector:
    """A steering vector, with the interface of `FeatureSet`."""

    block: str
    vector: np.ndarray
    sae: Any

    @property
    def name(self) -> str:
        return f"{self.block}/mean difference"

    def add(self, strength: float, where: Any = None, **options: Any) -> Edits:
        """Add it with the norm of `strength` update deviations."""
        direction = Direction(self.block, self.vector, sae=self.sae)
        return Edits.of(direction.add(strength, unit="deviation", where=where, **options))


def contrast_set(dictionary: SAE | Basis, contrast: np.ndarray, size: int) -> FeatureSet:
    """The feature with the largest contrast (n,), and `size` - 1 others with the largest in absolute value,
    weighted by it: what the value brings is added and what it displaces is taken away."""
    first = int(np.argmax(contrast))
    others = [int(f) for f in np.argsort(-np.abs(contrast), kind="stable") if f != first and contrast[f]]
    chosen = (first, *others[: size - 1])
    return FeatureSet(dictionary, chosen, tuple(float(contrast[f]) or 1e-6 for f in chosen))


def directions(
    held: Mapping[str, Any], contrasts: Mapping[str, np.ndarray], shift: np.ndarray, size: int, seed: int
) -> dict[str, Any]:
    """Method -> its direction for one value at one block.

    held: `dictionaries`; contrasts: dictionary -> (n,) mean code with the value minus without; shift (d,):
    the same of the updates themselves. The random control has the SAE set's weights on living features.
    """
    sets: dict[str, Any] = {name: contrast_set(held[name], contrasts[name], size) for name in DICTIONARIES}
    sae_set = sets["sae"]
    return {
        **sets,
        "steering": Vector(held["sae"].block, shift, held["sae"]),
        "random": random_set(held["sae"], len(sae_set.features), seed, sae_set.weights),
    }
