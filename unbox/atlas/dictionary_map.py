"""A dictionary on a plane: features whose directions are alike lie together, and clusters of them.

As UMAP does (McInnes et al. 2018, arXiv:1802.03426): a graph of nearest neighbours by cosine, laid out by
attraction along its edges and repulsion between random features. Simpler: an edge has one weight, constants
are fixed.
"""

from dataclasses import dataclass

import numpy as np
from scipy.cluster.vq import kmeans2

from unbox.validation import Seed, checked

#: Neighbours in the graph, rounds of the layout, random features that each end of an edge is driven from in a
#: round, and the constants of UMAP's low-dimensional similarity 1 / (1 + A d^2B) for a least distance of 0.1.
NEIGHBOURS, ROUNDS, DRIVEN, A, B = 15, 150, 3, 1.577, 0.895
#: Rows whose neighbours are found at once; clusters at most, and features of each at least.
AT_ONCE, CLUSTERS, LEAST = 1024, 16, 8


@dataclass(frozen=True, eq=False)
class DictionaryMap:
    """Where features lie."""

    places: np.ndarray
    """(n, 2) float32 from 0 to 1."""
    cluster: np.ndarray
    """(n,) int64, a cluster each."""


def dictionary_map(directions: np.ndarray, seed: int = 0) -> DictionaryMap:
    """The map of the rows of (n, d) directions; the same for the same seed."""
    random = np.random.default_rng(checked(Seed, "seed", seed, "dictionary_map"))
    unit = np.asarray(directions, np.float32)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    n = len(unit)
    if n < 3:
        return DictionaryMap(np.linspace(0, 1, 2 * n, dtype=np.float32).reshape(n, 2), np.zeros(n, np.int64))
    head, tail, weight = neighbour_graph(unit)
    places = _principal(unit, random)
    for round_ in range(ROUNDS):
        rate = 1.0 - round_ / ROUNDS
        chosen = random.random(len(head)) < weight
        _attract(places, head[chosen], tail[chosen], rate)
        _repel(places, np.tile(head[chosen], DRIVEN), random, rate)
    low, high = np.quantile(places, (0.001, 0.999), axis=0)
    places = np.clip((places - low) / np.maximum(high - low, 1e-9), 0, 1).astype(np.float32)
    count = max(1, min(CLUSTERS, n // LEAST))
    _, cluster = kmeans2(places, count, minit="++", seed=np.random.default_rng([seed, 1]))
    return DictionaryMap(places, np.asarray(cluster, np.int64))


def neighbour_graph(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges (head, tail, weight in 0 to 1) from each of the unit rows to its nearest by cosine. The weight
    falls from the nearest neighbour on, by the mean distance beyond it. Memory: 1,024 x n numbers."""
    n, k = len(unit), min(NEIGHBOURS, len(unit) - 1)
    tails, weights = np.empty((n, k), np.int64), np.empty((n, k))
    for start in range(0, n, AT_ONCE):
        near = unit[start : start + AT_ONCE] @ unit.T
        rows = np.arange(len(near))
        near[rows, start + rows] = -np.inf
        found = np.argpartition(-near, k - 1, axis=1)[:, :k]
        distance = 1.0 - np.take_along_axis(near, found, 1)
        beyond = distance - distance.min(1, keepdims=True)
        tails[start : start + AT_ONCE] = found
        scale = np.maximum(beyond.mean(1, keepdims=True), 1e-6)
        weights[start : start + AT_ONCE] = np.exp(-beyond / scale)
    return np.repeat(np.arange(n), k), tails.ravel(), weights.ravel()


def _principal(unit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(n, 2) a beginning: the two principal components, by power iteration, ten wide, with a little noise."""
    centred = unit - unit.mean(0)
    basis = random.standard_normal((unit.shape[1], 2))
    for _ in range(10):
        basis, _ = np.linalg.qr(centred.T @ (centred @ basis))
    places = centred @ basis
    places = 10 * places / max(float(np.abs(places).max()), 1e-9)
    return places + 1e-2 * random.standard_normal(places.shape)


def _attract(places: np.ndarray, head: np.ndarray, tail: np.ndarray, rate: float) -> None:
    """Move the ends of edges towards each other, in place."""
    apart = places[head] - places[tail]
    square = np.maximum((apart**2).sum(1, keepdims=True), 1e-12)
    pull = np.clip(-2 * A * B * square ** (B - 1) / (1 + A * square**B) * apart, -4, 4) * rate
    _add(places, head, pull)
    _add(places, tail, -pull)


def _repel(places: np.ndarray, head: np.ndarray, random: np.random.Generator, rate: float) -> None:
    """Drive features from random others, in place."""
    apart = places[head] - places[random.integers(0, len(places), len(head))]
    square = (apart**2).sum(1, keepdims=True)
    push = np.clip(2 * B / ((1e-3 + square) * (1 + A * square**B)) * apart, -4, 4) * rate
    _add(places, head, push)


def _add(places: np.ndarray, rows: np.ndarray, moves: np.ndarray) -> None:
    for axis in range(2):
        places[:, axis] += np.bincount(rows, moves[:, axis], len(places))
