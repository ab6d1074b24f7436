"""Texts as vectors, by the pipeline's own text encoders: search by meaning needs no further model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unbox.models.prompt_embeddings import PromptReading, encoded_chunks, text_encoders
from unbox.models.run_lock import exclusive

if TYPE_CHECKING:
    from unbox.models.model import Model


#: Words that say what likeness is usual.
RANDOM_WORDS = 64


@torch.no_grad()
def embed(model: "Model", texts: Sequence[str], batch: int = 64, *, chunks: bool = True) -> np.ndarray:
    """(texts, e) float32: what the UNet is told about each text, as one vector.

    For every text encoder the mean of its penultimate hidden states over the text's tokens (what
    cross-attention reads), and its projected embedding where it has one (what the time embedding reads); each
    part of unit norm. A text that is longer than the encoders read is read in chunks, its projected embedding
    that of the first; without `chunks`, what is over is cut off, as from the prompts of most stores.
    `batch`: chunks that are encoded at once. Raises UnboxError for texts of too many chunks.
    """
    reading = PromptReading(chunks=chunks)
    with exclusive(model, "embedding texts"):
        parts = [_encode(*pair, texts, reading, batch) for pair in text_encoders(model.pipeline)]
    return np.concatenate(parts, axis=1)


def _encode(
    tokenizer: Any, encoder: Any, texts: Sequence[str], reading: PromptReading, batch: int
) -> np.ndarray:
    """(texts, e) of one text encoder."""
    chunks = [reading.token_chunks(tokenizer, text) for text in texts]
    of_text = np.repeat(np.arange(len(texts)), [len(each) for each in chunks])
    every = [chunk for each in chunks for chunk in each]
    sums, projected = [], []
    for start in range(0, len(every), batch):
        part = every[start : start + batch]
        hidden, output = encoded_chunks(tokenizer, encoder, part)
        # A chunk's tokens with those of its beginning and end, without padding.
        lengths = torch.tensor([len(chunk) + 2 for chunk in part]).to(hidden.device)
        real = torch.arange(hidden.shape[1], device=hidden.device)[None] < lengths[:, None]
        sums.append((hidden.float() * real[..., None]).sum(1).cpu().numpy())
        if output.ndim == 2:
            projected.append(output.float().cpu().numpy())
    first = np.searchsorted(of_text, np.arange(len(texts)))
    vectors = [np.add.reduceat(np.concatenate(sums), first)]  # a mean's direction is the sum's
    if projected:
        vectors.append(np.concatenate(projected)[first])
    return np.concatenate([_unit(vector) for vector in vectors], axis=1)


def feature_vectors(
    texts: np.ndarray, images: np.ndarray, peaks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(n, e) mean embedding of each feature's top captions, weighted by peak, and the mean (e,) of all texts.

    texts (images of the store, e); images, peaks (n, m), -1 where fewer. All share a direction (the mean),
    which says nothing: it is taken off, here and from queries. A feature without examples is a zero vector.
    """
    mean = texts.mean(0)
    weight = np.where(images >= 0, peaks, 0)
    weight = weight / np.maximum(weight.sum(1, keepdims=True), 1e-12)
    vectors = np.stack([w @ (texts[np.maximum(i, 0)] - mean) for i, w in zip(images, weight, strict=True)])
    return _unit(vectors), mean


def nearest(vectors: np.ndarray, mean: np.ndarray, query: np.ndarray) -> np.ndarray:
    """(n,) cosine of every feature's vector with a query's embedding (e,)."""
    return vectors @ _unit((query - mean)[None])[0]


def usual_likeness(vectors: np.ndarray, mean: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """(n,) mean cosine of every feature's vector with texts (m, e)."""
    return np.mean([nearest(vectors, mean, text) for text in texts], axis=0)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
