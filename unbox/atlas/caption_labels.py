"""Words that set a feature's captions apart, the label made of them, and how well the label foretells firing.

Log-odds with an informative Dirichlet prior (Monroe, Colaresi and Quinn, "Fightin' Words", 2008): captions
of the images where a feature is most active against all others, words and pairs of neighbouring words alike.
Labels are scored on the probe images, whose captions the words have never seen.
"""

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from unbox.atlas.relations import presence
from unbox.atlas.stop_words import STOP
from unbox.statistics import auroc

#: Terms kept, strength of the prior in words, least z of a word kept.
VOCABULARY, PRIOR, SIGNIFICANT = 50_000, 50.0, 2.0
#: Most words in a label, and what each must have: an absolute z, and a share of the first word's. Among
#: thousands of terms some reach z = 2 by chance.
LABEL_WORDS, LABEL_Z, LABEL_SHARE = 3, 3.0, 0.6
#: Words of a feature that are kept for search.
SEARCH_WORDS = 16
#: Share of its scale over which a feature counts as firing in an image, for labels.
STRONG = 0.25
#: Probe images that must fire (and be silent) before a label is scored.
ENOUGH = 5

_WORD = re.compile(r"\w+(?:'\w+)?", re.UNICODE)


@dataclass(frozen=True)
class Word:
    """A term and how far it stands out: z of its log-odds."""

    term: str
    z: float


@dataclass(frozen=True)
class CaptionLabel:
    """What a feature is called. `score`: AUROC on probe images, None where too few fire."""

    text: str
    score: float | None
    firing: int
    """Probe images in which the feature fires strongly."""
    words: tuple[Word, ...]


@dataclass(frozen=True)
class Captions:
    """Which terms each caption has: a sparse bool matrix (captions, terms)."""

    terms: tuple[str, ...]
    has: csr_matrix

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Captions":
        """Terms that occur in at least two captions, the most frequent ones. The texts are gone through once
        and not kept: 4 bytes a term of a caption, and each different term once, are."""
        numbers: dict[str, int] = {}
        flat, ends = array("i"), array("q", [0])
        for text in texts:
            flat.extend(numbers.setdefault(term, len(numbers)) for term in sorted(set(terms_of(text))))
            ends.append(len(flat))
        found = np.frombuffer(flat, np.int32) if len(flat) else np.zeros(0, np.int32)
        counts = np.bincount(found, minlength=len(numbers))
        common = [term for term, number in numbers.items() if counts[number] > 1]
        terms = sorted(common, key=lambda term: (-counts[numbers[term]], term))[:VOCABULARY]
        column = np.full(len(numbers) + 1, -1, np.int64)
        column[[numbers[term] for term in terms]] = np.arange(len(terms))
        kept = column[found] >= 0
        stops = np.concatenate([[0], np.cumsum(kept)])[np.frombuffer(ends, np.int64)]
        data = np.ones(int(kept.sum()), np.float32)
        has = csr_matrix((data, column[found][kept], stops), (len(ends) - 1, len(terms)))
        return cls(tuple(terms), has)


def terms_of(text: str) -> Iterator[str]:
    """Words of a caption in lower case, and pairs of neighbours, without stop words."""
    words = _WORD.findall(text.lower())
    for i, word in enumerate(words):
        if word not in STOP and len(word) > 1:
            yield word
            if i and words[i - 1] not in STOP and len(words[i - 1]) > 1:
                yield f"{words[i - 1]} {word}"


def log_odds(chosen: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """z of the log-odds of every term. (m, terms) counts in the chosen captions, and in all others.

    delta = log((y + a) / (n + A - y - a)) - the same of the rest; a is the term's share of everything times
    PRIOR; z = delta / sqrt(1 / (y + a) + 1 / (y' + a)).
    """
    prior = (chosen + rest).sum(0, keepdims=True)
    prior = PRIOR * prior / max(prior.sum(), 1) + 1e-6

    def odds(y: np.ndarray) -> np.ndarray:
        above = y + prior
        return np.log(above) - np.log(np.maximum(y.sum(1, keepdims=True) + prior.sum() - above, 1e-6))

    variance = 1 / (chosen + prior) + 1 / (rest + prior)
    return (odds(chosen) - odds(rest)) / np.sqrt(variance)


def label_features(
    captions: Captions, images: np.ndarray, peaks: np.ndarray, scale: np.ndarray,
    probes: np.ndarray, probe_peak: np.ndarray,
) -> list[CaptionLabel]:  # fmt: skip
    """A label for each of n features.

    images, peaks (n, m): captions of the most active images, -1 where fewer. scale (n,). probes (p,) images;
    probe_peak (n, p).
    """
    total = np.asarray(captions.has.sum(0)).ravel()
    strong = (images >= 0) & (peaks > STRONG * peaks.max(1, keepdims=True))
    labels: list[CaptionLabel] = []
    for part in _parts(len(images), 256):
        row, column = np.nonzero(strong[part])
        picked = presence(row, images[part][row, column], len(part), captions.has.shape[0])
        counts = np.asarray((picked @ captions.has).todense(), np.float64)
        z = log_odds(counts, total - counts)
        chosen = [_words(captions.terms, z[i], counts[i]) for i in range(len(part))]
        fires = probe_peak[part] > STRONG * scale[part][:, None]
        caption_scores = label_scores([c[1] for c in chosen], z, captions.has[probes])
        scores = label_auroc(caption_scores, fires)
        for (words, picks), score, firing in zip(chosen, scores, fires.sum(1), strict=True):
            text = ", ".join(captions.terms[i] for i in picks)
            known = float(score) if text and not np.isnan(score) else None
            labels.append(CaptionLabel(text, known, int(firing), words))
    return labels


def label_scores(picks: Sequence[Sequence[int]], z: np.ndarray, has: csr_matrix) -> np.ndarray:
    """(m, captions): how much of a label each caption says, the sum of z of its words."""
    weights = np.zeros((len(picks), has.shape[1]), np.float32)
    for row, chosen in enumerate(picks):
        weights[row, list(chosen)] = z[row, list(chosen)]
    return np.asarray((has @ weights.T).T)


def name_scores(
    captions: Captions, names: Sequence[str], scale: np.ndarray, probes: np.ndarray, probe_peak: np.ndarray
) -> np.ndarray:
    """(n,) AUROC on the probes of how many of a name's words a caption has, for n given names; NaN where no
    caption has one, or too few probes fire. As in `label_features`."""
    if not names:
        return np.zeros(0)
    number = {term: i for i, term in enumerate(captions.terms)}
    picks = [[number[term] for term in set(terms_of(name)) if term in number] for name in names]
    known = np.array([len(each) > 0 for each in picks])
    weights = np.ones((len(picks), len(captions.terms)), np.float32)
    found = label_auroc(
        label_scores(picks, weights, captions.has[probes]), probe_peak > STRONG * scale[:, None]
    )
    return np.where(known, found, np.nan)


def label_auroc(scores: np.ndarray, fires: np.ndarray) -> np.ndarray:
    """(m,) AUROC of scores (m, images) for whether each of m features fires in an image; NaN where a side has
    too few images."""
    yes = fires.sum(1)
    areas = auroc(scores[..., None], fires[..., None])[:, 0, 0]
    return np.where(np.minimum(yes, fires.shape[1] - yes) >= ENOUGH, areas, np.nan)


def decoys(
    captions: Captions, top: np.ndarray, probes: np.ndarray, probe_peak: np.ndarray, count: int
) -> np.ndarray:
    """(n, count) probe images in which a feature is silent, those first whose captions resemble its top ones.

    top (n, m) images, -1 where fewer; -1 in the result likewise.
    """
    result = np.full((len(top), count), -1, np.int64)
    if not len(probes):
        return result
    rarity = np.log(captions.has.shape[0] / np.maximum(np.asarray(captions.has.sum(0)).ravel(), 1))
    weighted = captions.has.multiply(rarity).tocsr()
    of_probes = captions.has[probes]
    for part in _parts(len(top), 256):
        row, column = np.nonzero(top[part] >= 0)
        picked = presence(row, top[part][row, column], len(part), captions.has.shape[0])
        alike = np.asarray(((picked @ weighted) @ of_probes.T).todense())
        alike = np.where(probe_peak[part] > 0, -1.0, alike)
        order = np.argsort(-alike, axis=1, kind="stable")[:, :count]
        found = np.where(np.take_along_axis(alike, order, 1) >= 0, probes[order], -1)
        result[part.start : part.stop, : found.shape[1]] = found
    return result


def _words(terms: Sequence[str], z: np.ndarray, counts: np.ndarray) -> tuple[tuple[Word, ...], list[int]]:
    """Words that stand out, and the indices of those that make the label."""
    best = np.argsort(-z, kind="stable")[:SEARCH_WORDS].tolist()
    order = [i for i in best if z[i] >= SIGNIFICANT and counts[i] > 1]
    picks: list[int] = []
    for i in order:
        used = {word for p in picks for word in terms[p].split()}
        clear = z[i] >= max(LABEL_Z, LABEL_SHARE * z[order[0]])
        if clear and len(picks) < LABEL_WORDS and not used & set(terms[i].split()):
            picks.append(i)
    return tuple(Word(terms[i], float(z[i])) for i in order), picks


def _parts(count: int, size: int) -> Iterable[range]:
    return (range(start, min(start + size, count)) for start in range(0, count, size))
