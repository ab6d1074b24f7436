"""Learned baselines of steering, from vectors of labelled places: what an SAE's features have to beat.

`mean_difference` and `linear_probe` are directions. `low_rank_shift` is LoReFT's intervention (Wu et al.
2024), u + R'(W u + b - R u) with orthonormal rows R, and `classifier_shift` K-steering's (Oozeer et al.
2025): steps down the gradient of a small classifier's loss. Both are dictionaries whose codes are what is to
be added, so that `scale(1 + s)` of all their features makes s of the shift, as an ordinary edit. Different
from the papers: LoReFT learns there by the model's own loss, here by regression on the same places of the run
whose caption has the value; K-steering's steps have a fixed length here, all together the updates' deviation.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from unbox.edit import Edit, Feature
from unbox.errors import FieldError, UnboxError
from unbox.models.seeds import generator
from unbox.sae.codes import Codes
from unbox.sae.model import Stats

#: Steps of the classifier's optimizer, its learning rate, and vectors of a batch.
STEPS, RATE, BATCH = 400, 3e-3, 1024

#: Rank of LoReFT, hidden units of the classifier, and steps down its gradient.
RANK, HIDDEN, DESCENTS = 4, 64, 5

#: Penalty on a probe's squared weights.
RIDGE = 1e-3


def _vectors(given: np.ndarray, door: str) -> Tensor:
    found = torch.as_tensor(np.asarray(given), dtype=torch.float32)
    if found.ndim != 2 or not len(found) or not bool(found.isfinite().all()):
        raise FieldError(door, "vectors", given, "should be finite updates (m, d), at least one")
    return found


def mean_difference(having: np.ndarray, lacking: np.ndarray) -> np.ndarray:
    """(d,) mean of vectors (m, d) that show a value less that of vectors that do not."""
    with_it, without = _vectors(having, "mean_difference"), _vectors(lacking, "mean_difference")
    return (with_it.mean(0) - without.mean(0)).numpy()


def linear_probe(having: np.ndarray, lacking: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """(d,) the normal of a logistic regression between vectors (m, d) that show a value and others, both
    sides counted alike; as long as it takes to carry the mean of the others to that of those, along it."""
    with_it, without = _vectors(having, "linear_probe"), _vectors(lacking, "linear_probe")
    every = torch.cat([with_it, without]).double()
    middle, spread = every.mean(0), every.std(0).clamp(min=1e-6)
    inputs = (every - middle) / spread
    labels = torch.cat([torch.ones(len(with_it)), torch.zeros(len(without))]).double()
    shares = torch.where(labels > 0, 0.5 / len(with_it), 0.5 / len(without))
    weights = torch.zeros(inputs.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = inputs @ weights[:-1] + weights[-1]
        cost = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        total = (cost * shares).sum() + ridge * weights[:-1].square().sum()
        total.backward()
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    normal = (weights.detach()[:-1] / spread).float()
    gap = normal @ (with_it.mean(0) - without.mean(0))
    return (normal * gap / normal.square().sum()).numpy()


@dataclass(frozen=True, eq=False)
class LearnedShift:
    """A learned shift of a block's update as a dictionary: its codes are what is added along `W_dec`."""

    block: str
    name: str
    W_dec: Tensor
    """(n, d)"""
    update_std: float
    shift: Callable[[Tensor], Tensor]
    """(..., d) -> (..., n) coefficients of what is added."""
    stats: Stats | None = None

    def to(self, device: torch.device | None = None) -> "LearnedShift":
        """The same on a device; what shifts moves what it needs itself."""
        return replace(self, W_dec=self.W_dec.to(device))

    @property
    def latents(self) -> int:
        return len(self.W_dec)

    @property
    def width(self) -> int:
        return self.W_dec.shape[1]

    def encode(self, update: Tensor) -> Codes:
        """The coefficients of the shift, all of them."""
        values = self.shift(update.float())
        return Codes(values, torch.arange(self.latents, device=values.device).expand_as(values))

    def decode(self, codes: Codes) -> Tensor:
        """(..., d) the shift."""
        return codes.values @ self.W_dec.to(codes.values)

    def edit(self, strength: float, **options: object) -> Edit:
        """The edit that adds `strength` of the shift."""
        every = Feature(self.block, tuple(range(self.latents)), sae=self)
        return every.scale(1 + strength, **options)  # type: ignore[arg-type]


def low_rank_shift(block: str, before: np.ndarray, after: np.ndarray, rank: int = RANK) -> LearnedShift:
    """LoReFT's intervention that carries vectors (m, d) to those of the same places (m, d) with the value.

    The best of its rank (reduced-rank regression of the difference): R are the directions in which what a
    linear regression foresees varies most.
    """
    first, then = _vectors(before, "low_rank_shift").double(), _vectors(after, "low_rank_shift").double()
    if first.shape != then.shape:
        shapes = f"{tuple(first.shape)} and {tuple(then.shape)}"
        raise UnboxError(f"before and after are of other places: {shapes}")
    deviation = float((first - first.mean(0)).square().sum(1).mean().sqrt()) or 1.0
    inputs = torch.cat([first / deviation, torch.ones(len(first), 1)], 1)
    penalty = RIDGE * torch.eye(inputs.shape[1], dtype=torch.float64)
    penalty[-1, -1] = 0
    gram = inputs.T @ inputs / len(inputs) + penalty
    fitted = torch.linalg.solve(gram, inputs.T @ (then - first) / len(inputs))
    rows = torch.linalg.svd(inputs @ fitted, full_matrices=False).Vh[:rank]
    reading, constant = ((fitted[:-1] / deviation) @ rows.T).float(), (fitted[-1] @ rows.T).float()

    def shift(update: Tensor) -> Tensor:
        return update @ reading.to(update) + constant.to(update)

    return LearnedShift(block, "loreft", rows.float(), deviation, shift)


def classifier_shift(
    block: str, vectors: np.ndarray, labels: np.ndarray, wanted: int, seed: int = 0
) -> LearnedShift:
    """K-steering's shift towards the label `wanted` and away from the others: a classifier of one hidden
    layer of vectors (m, d) by their labels (m,), and steps down the gradient of the mean logit of the others
    less the logit of the one."""
    every = _vectors(vectors, "classifier_shift")
    known = torch.as_tensor(np.asarray(labels)).long()
    count = int(known.max()) + 1
    if count < 2 or not 0 <= wanted < count:
        raise UnboxError(f"the label {wanted} should be one of several: 0 to {count - 1}")
    middle = every.mean(0)
    deviation = float((every - middle).square().sum(1).mean().sqrt()) or 1.0
    scale = deviation / every.shape[1] ** 0.5
    draw = generator(seed)
    network = nn.Sequential(nn.Linear(every.shape[1], HIDDEN), nn.GELU(), nn.Linear(HIDDEN, count))
    with torch.no_grad():
        for weight in network.parameters():
            fan = weight.shape[-1] ** -0.5
            weight.copy_((2 * torch.rand(weight.shape, generator=draw) - 1) * fan)
    shares = len(known) / (count * torch.bincount(known, minlength=count).clamp(min=1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-2)
    with torch.enable_grad():
        for _ in range(STEPS):
            some = torch.randint(len(every), (min(BATCH, len(every)),), generator=draw)
            logits = network((every[some] - middle) / scale)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, known[some], shares.float()).backward()
            optimizer.step()
    network = network.eval().requires_grad_(False)
    others = [label for label in range(count) if label != wanted]

    def shift(update: Tensor) -> Tensor:
        here, now = network.to(update.device), update.detach()
        centre = middle.to(update)
        for _ in range(DESCENTS):
            with torch.enable_grad():
                at = now.clone().requires_grad_()
                logits = here((at - centre) / scale)
                loss = (logits[..., others].mean(-1) - logits[..., wanted]).sum()
                (gradient,) = torch.autograd.grad(loss, at)
            length = gradient.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            now = now - (deviation / DESCENTS) * gradient / length
        return now - update

    return LearnedShift(block, "k-steering", torch.eye(every.shape[1]), deviation, shift)
