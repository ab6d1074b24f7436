"""Factors: groups of an SAE's features that move together, edited as one.

`nmf_factors` takes apart what features did on recorded images (images x features, never negative) into few
factors that add up (non-negative matrix factorisation, Lee & Seung 2001); `cluster_factors` groups features
whose decoder directions are alike (k-means on the unit sphere). A factor is a weighted set of features: its
edits are ordinary edits of these, saved, guarded and controlled like any others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from activation_store import Rows
from unbox.edit import EditOptions, Edits, Feature
from unbox.edits.baselines import active_statistics
from unbox.edits.erasure import mean_codes
from unbox.edits.terms import TensorDictionary
from unbox.errors import UnboxError
from unbox.memory_limit import require
from unbox.models.seeds import generator
from unbox.sae.codes import Codes
from unbox.sae.direction_set import direction_set
from unbox.sae.model import SAE, Stats
from unbox.validation import Count, Real, Seed, Share, checked

#: Steps of the multiplicative updates, and of k-means.
ROUNDS, MEANS = 200, 50

#: Share of a factor's weight that its features keep: the smallest are left out.
KEPT = 0.95

#: Keeps divisions finite.
EPSILON = 1e-9


@dataclass(frozen=True, eq=False)
class FeatureFactor:
    """Features that move together, and how much of each goes with one unit of the factor."""

    sae: TensorDictionary
    features: tuple[int, ...]
    """By weight, the largest first."""
    weights: tuple[float, ...]
    """Codes of the features at a value of 1."""

    @property
    def direction(self) -> Tensor:
        """(d,) what a value of 1 adds to the update."""
        return torch.tensor(self.weights) @ self.sae.W_dec.detach()[list(self.features)].float().cpu()

    def add(self, value: float, **options: Unpack[EditOptions]) -> Edits:
        """Add value of the factor: of each feature its weight as often."""
        value = checked(Real, "value", value, "FeatureFactor.add")
        pairs = zip(self.features, self.weights, strict=True)
        return Edits(
            tuple(self._feature(f).add(value * w, unit="absolute", **options) for f, w in pairs if value * w)
        )

    def scale(self, value: float, **options: Unpack[EditOptions]) -> Edits:
        """Multiply what the update has of the factor's features; 0 takes them out."""
        return Edits.of(self._feature(self.features).scale(value, **options))

    def _feature(self, index: int | tuple[int, ...]) -> Feature:
        source = None if self.sae.name == self.sae.block else self.sae.name
        return Feature(self.sae.block, index, sae=self.sae, source=source)


def nmf_factors(
    sae: TensorDictionary, rows: Rows, count: int, *, kept: float = KEPT, seed: int = 0
) -> list[FeatureFactor]:
    """`count` factors of the mean codes of recorded images, the one that explains most first.

    rows: of the SAE's block, in a store; each image is read and encoded once. A factor's weights are the
    codes of its features where it is as active as in the mean image; features beyond `kept` of the weight
    are left out. Memory: images x latents x 4 bytes. Raises UnboxError for more factors than images.
    """
    count, seed = checked(Count, "count", count, "nmf_factors"), checked(Seed, "seed", seed, "nmf_factors")
    kept, images = checked(Share, "kept", kept, "nmf_factors"), rows.shape[0]
    if count > min(images, sae.latents):
        raise UnboxError(
            f"{count} factors need as many images and latents; there are {images}, {sae.latents}"
        )
    require(12 * images * sae.latents, f"the codes of {images:,} images")
    codes = np.empty((images, sae.latents), np.float32)
    for i in range(images):
        codes[i] = mean_codes(sae, rows.filter(samples=[i])).mean(0)
    amounts, parts = factorise(torch.from_numpy(codes), count, seed)
    weights = parts * amounts.mean(0)[:, None]
    order = weights.sum(1).argsort(descending=True)
    return [_factor(sae, weights[i].numpy(), kept) for i in order]


def factorise(codes: Tensor, count: int, seed: int = 0, rounds: int = ROUNDS) -> tuple[Tensor, Tensor]:
    """Non-negative (images, count) and (count, features) whose product is near `codes` (images, features).

    Lee & Seung's multiplicative updates of the squared error, which never grows; drawn from `seed`.
    """
    if bool((codes < 0).any()):
        raise UnboxError("codes should not be negative: factors are of the codes of an SAE")
    draw = generator(seed)
    size = (codes.mean() / count).sqrt() + EPSILON
    amounts = size * torch.rand(len(codes), count, generator=draw)
    parts = size * torch.rand(count, codes.shape[1], generator=draw)
    for _ in range(rounds):
        parts *= (amounts.T @ codes) / (amounts.T @ amounts @ parts + EPSILON)
        amounts *= (codes @ parts.T) / (amounts @ (parts @ parts.T) + EPSILON)
    return amounts, parts


def cluster_factors(
    sae: TensorDictionary, count: int, *, seed: int = 0, living: float = 0.0
) -> list[FeatureFactor]:
    """At most `count` groups of features whose decoder directions are alike, the largest first.

    Weights are the features' mean active values, so that a value of 1 is every feature as it usually is.
    Features that are active at no more than a share `living` of places are left out. Raises UnboxError for
    an SAE without statistics.
    """
    count = checked(Count, "count", count, "cluster_factors")
    seed, living = (
        checked(Seed, "seed", seed, "cluster_factors"),
        checked(Real, "living", living, "cluster_factors"),
    )
    if sae.stats is None:
        raise UnboxError(f"the SAE of {sae.block} has no statistics, which say how much of each feature goes")
    alive = np.flatnonzero(np.asarray(sae.stats.density) > living)
    if count > len(alive):
        raise UnboxError(f"{count} groups need as many living features; {sae.block} has {len(alive)}")
    directions = torch.nn.functional.normalize(sae.W_dec.detach()[alive].float().cpu(), dim=1)
    groups, mean = alike(directions, count, seed), np.asarray(sae.stats.mean_active, np.float64)
    found = []
    for group in sorted(set(groups.tolist()), key=lambda g: (-int((groups == g).sum()), g)):
        weights = np.zeros(sae.latents)
        members = alive[np.asarray(groups == group)]
        weights[members] = mean[members]
        found.append(_factor(sae, weights, 1.0))
    return found


def alike(directions: Tensor, count: int, seed: int = 0) -> Tensor:
    """(n,) group of each unit vector (n, d): k-means by cosine, begun at vectors far from each other."""
    rng, centres = generator(seed), [int(torch.randint(len(directions), (), generator=generator(seed)))]
    nearest = directions @ directions[centres[0]]
    while len(centres) < count:
        centres.append(int(torch.multinomial((1 - nearest).clamp(min=1e-12), 1, generator=rng)))
        nearest = torch.maximum(nearest, directions @ directions[centres[-1]])
    middles = directions[centres]
    groups = torch.full((len(directions),), -1)
    for _ in range(MEANS):
        now = (directions @ middles.T).argmax(1)
        if bool((now == groups).all()):
            break
        groups = now
        sums = torch.zeros_like(middles).index_add_(0, groups, directions)
        empty = sums.norm(dim=1, keepdim=True) < EPSILON
        middles = torch.where(empty, middles, torch.nn.functional.normalize(sums, dim=1))
    return groups


def factor_directions(factors: Sequence[FeatureFactor], rows: np.ndarray, labels: Sequence[str] = ()) -> SAE:
    """Factors of one SAE as a set of directions, which have pages in the explorer: what a value of 1 adds,
    and the features that it is made of.

    What is read of one is the projection on its direction, not its features' codes. `rows` (m, d): a sample
    of updates; `labels`: one for each. Raises UnboxError for no factors, or labels of another number.
    """
    if not factors or (labels and len(labels) != len(factors)):
        raise UnboxError(f"there are {len(factors)} factors and {len(labels)} labels")
    sae, named = factors[0].sae, labels or [f"factor {i}" for i in range(len(factors))]
    source = sae.name or sae.block
    parts = {
        label: {f"{source}/{f}": w for f, w in zip(each.features, each.weights, strict=True)}
        for label, each in zip(named, factors, strict=True)
    }
    vectors = {label: each.direction.numpy() for label, each in zip(named, factors, strict=True)}
    return direction_set(sae.block, vectors, rows, kind="factor", parts=parts, name=f"{source}-factors")


def _factor(sae: TensorDictionary, weights: np.ndarray, kept: float) -> FeatureFactor:
    """The features with most weight that have `kept` of it together."""
    order = np.argsort(-weights, kind="stable")
    order = order[weights[order] > 0]
    below = np.cumsum(weights[order]) - weights[order] < kept * weights.sum()
    chosen = order[below]
    return FeatureFactor(sae, tuple(chosen.tolist()), tuple(weights[chosen].tolist()))


@dataclass(frozen=True, eq=False)
class FactorDictionary:
    """Factors of one SAE as a dictionary, to be compared with SAEs, neurons and components by the same code.

    Coefficient i of an update is how much of factor i its codes z have, <z, w_i> / |w_i|^2, in lengths of the
    factor's direction.
    """

    sae: TensorDictionary
    weights: Tensor
    """(count, latents)"""
    lengths: Tensor
    """(count,) norms of the factors' directions."""
    rows: Tensor
    """(m, d) updates that the statistics are taken over."""
    name: str = "factors"

    @classmethod
    def of(
        cls, factors: Sequence[FeatureFactor], rows: np.ndarray, name: str = "factors"
    ) -> "FactorDictionary":
        """Of factors of one SAE; `rows` (m, d): a sample of updates. Raises UnboxError for no factors."""
        if not factors:
            raise UnboxError("there are no factors")
        sae = factors[0].sae
        weights = torch.zeros(len(factors), sae.latents)
        for row, factor in zip(weights, factors, strict=True):
            row[list(factor.features)] = torch.tensor(factor.weights)
        lengths = torch.stack([factor.direction.norm() for factor in factors]).clamp(min=EPSILON)
        return cls(sae, weights, lengths, torch.as_tensor(rows, dtype=torch.float32), name)

    def to(self, device: torch.device | None = None) -> "FactorDictionary":
        """The same with its tensors elsewhere."""
        weights, lengths = self.weights.to(device), self.lengths.to(device)
        return replace(
            self, sae=self.sae.to(device), weights=weights, lengths=lengths, rows=self.rows.to(device)
        )

    @property
    def block(self) -> str:
        return self.sae.block

    @property
    def latents(self) -> int:
        return len(self.weights)

    @property
    def width(self) -> int:
        return self.sae.W_dec.shape[1]

    @property
    def update_std(self) -> float:
        return float(self.sae.update_std)

    @cached_property
    def W_dec(self) -> Tensor:
        """(count, d) unit directions."""
        decoder = self.sae.W_dec.detach().float()
        return (self.weights.to(decoder) @ decoder) / self.lengths.to(decoder)[:, None]

    def encode(self, update: Tensor) -> Codes:
        """Every factor's coefficient, in their order: codes of k = count."""
        codes = self.sae.encode(update.to(self.sae.W_dec))
        by_feature = (self.weights * (self.lengths / self.weights.square().sum(1))[:, None]).T
        read = by_feature.to(codes.values)[codes.indices.long()]  # (..., k, count)
        values = (codes.values[..., None] * read).sum(-2)
        return Codes(values, torch.arange(self.latents, device=values.device).expand_as(values))

    def decode(self, codes: Codes) -> Tensor:
        """(..., d) the sum of the factors, without the SAE's bias."""
        return codes.values @ self.W_dec.to(codes.values)

    def feature(self, index: int | tuple[int, ...]) -> Feature:
        """A factor ready to be edited, as a feature of an SAE."""
        return Feature(self.block, index, sae=self)

    @cached_property
    def stats(self) -> Stats:
        """What each coefficient did where it is positive."""
        return active_statistics(self.encode(self.rows).values.float())
