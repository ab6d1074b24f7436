"""Which features belong together: near in the decoder, active in the same places, in one block or several."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

#: Places that two features must share before they are related by chance no longer.
ENOUGH = 3
_CHUNK = 256


class RelatedArrays(NamedTuple):
    """For each of n features the `count` most related: (n, count) indices in `other`, -1 where fewer."""

    other: np.ndarray
    score: np.ndarray
    """Cosine of the decoders, or of the two features' presence over places."""
    share: np.ndarray
    """Share of the feature's places where the other is active too (0 for decoder neighbours)."""


def neighbours(decoder: np.ndarray, count: int) -> RelatedArrays:
    """The features with the nearest decoder directions. decoder (n, d)."""
    unit = decoder / np.maximum(np.linalg.norm(decoder, axis=1, keepdims=True), 1e-12)
    result = _nothing(len(unit), count)
    for start in range(0, len(unit), _CHUNK):
        cosine = unit[start : start + _CHUNK] @ unit.T
        row = np.arange(len(cosine))
        cosine[row, start + row] = -np.inf
        _keep(result, start, cosine, np.zeros_like(cosine))
    return result


def presence(rows: np.ndarray, features: np.ndarray, places: int, latents: int) -> csr_matrix:
    """Sparse (places, latents): 1 where a feature is active."""
    return csr_matrix((np.ones(len(rows), np.float32), (rows, features)), (places, latents))


def together(here: csr_matrix, there: csr_matrix, count: int) -> RelatedArrays:
    """The features of `there` most often active in the places where those of `here` are.

    (places, n) and (places, m), of the same places. Cosine of presence: n_ab / sqrt(n_a n_b). Where both are
    the same matrix a feature is not related to itself.
    """
    counts, other_counts = (np.asarray(matrix.sum(0)).ravel() for matrix in (here, there))
    result = _nothing(here.shape[1], count)
    columns = here.tocsc()
    for start in range(0, here.shape[1], _CHUNK):
        both = np.asarray((columns[:, start : start + _CHUNK].T @ there).todense())
        count_a = counts[start : start + _CHUNK, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = np.where(both >= ENOUGH, both / np.sqrt(count_a * other_counts), -np.inf)
            share = np.where(count_a > 0, both / count_a, 0)
        if here is there:
            row = np.arange(len(cosine))
            cosine[row, start + row] = -np.inf
        _keep(result, start, cosine, share)
    return result


def elsewhere(
    found: Sequence[csr_matrix], others: Sequence[int], number: int, starts: np.ndarray, count: int
) -> RelatedArrays:
    """The most related features of several SAEs to those of SAE `number`, the best of each SAE's best.

    `found`: presence of each SAE; `others`: numbers of those to look in; `starts[i]`: the id of SAE i's first
    feature. `other` holds ids.
    """
    tables = [together(found[number], found[i], count) for i in others]
    for i, t in zip(others, tables, strict=True):
        t.other[t.other >= 0] += starts[i]
    tables.append(_nothing(found[number].shape[1], count))
    other, score, share = (np.concatenate(parts, 1) for parts in zip(*tables, strict=True))
    order = np.argsort(-score, axis=1, kind="stable")[:, :count]
    return RelatedArrays(*(np.take_along_axis(part, order, 1) for part in (other, score, share)))


def largest(score: np.ndarray, count: int) -> np.ndarray:
    """(rows, count) columns of the largest of each row of (rows, n), descending, equal ones by column; all
    of them where they are fewer. As a stable sort gives them, of which nearly all would be thrown away."""
    count = min(count, score.shape[1])
    if np.isfinite(score).mean() < 0.5:  # a sort is quick where most are equal
        return np.argsort(-score, axis=1, kind="stable")[:, :count]
    least = np.partition(score, -count, axis=1)[:, -count, None]
    above, equal = score > least, score == least
    spare = count - above.sum(1, keepdims=True)
    chosen = above | (equal & (equal.cumsum(1, dtype=np.int32) <= spare))
    columns = np.nonzero(chosen)[1].reshape(len(score), count)
    order = np.argsort(-np.take_along_axis(score, columns, 1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1)


def _nothing(rows: int, count: int) -> RelatedArrays:
    score, share = np.zeros((2, rows, count), np.float32)
    return RelatedArrays(np.full((rows, count), -1, np.int64), score, share)


def _keep(result: RelatedArrays, start: int, score: np.ndarray, share: np.ndarray) -> None:
    order = largest(score, result.other.shape[1])
    best = np.take_along_axis(score, order, 1)
    good = np.isfinite(best)
    rows = slice(start, start + len(score))
    result.other[rows, : order.shape[1]] = np.where(good, order, -1)
    result.score[rows, : order.shape[1]] = np.where(good, best, 0)
    result.share[rows, : order.shape[1]] = np.where(good, np.take_along_axis(share, order, 1), 0)
