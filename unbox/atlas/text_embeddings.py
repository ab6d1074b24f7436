"""Texts as vectors, by the pipeline's own text encoders: search by meaning needs no further model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from unbox.models.run_lock import exclusive

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    from unbox.models.model import Model


@torch.no_grad()
def embed(model: "Model", texts: Sequence[str], batch: int = 64) -> np.ndarray:
    """(texts, e) float32: what the UNet is told about each text, as one vector.

    For every text encoder the mean of its penultimate hidden states over the text's tokens (what
    cross-attention reads), and its projected embedding where it has one (what the time embedding reads); each
    part of unit norm.
    """
    pipeline = model.pipeline
    encoders = [
        (getattr(pipeline, f"tokenizer{number}"), getattr(pipeline, f"text_encoder{number}"))
        for number in ("", "_2")
        if getattr(pipeline, f"tokenizer{number}", None) and getattr(pipeline, f"text_encoder{number}", None)
    ]
    slices = (texts[start : start + batch] for start in range(0, len(texts), batch))
    with exclusive(model, "embedding texts"):
        device = model.device  # under offload the encoders' own is not where they compute
        parts = [
            np.concatenate([_encode(*pair, part, device) for pair in encoders], axis=1) for part in slices
        ]
    return np.concatenate(parts)


def _encode(
    tokenizer: "CLIPTokenizer",
    encoder: "CLIPTextModel | CLIPTextModelWithProjection",
    texts: Sequence[str],
    device: torch.device,
) -> np.ndarray:
    tokens = tokenizer(
        list(texts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
        return_tensors="pt",
    )  # fmt: skip
    output = encoder(tokens.input_ids.to(device), output_hidden_states=True)
    hidden = output.hidden_states[-2].float()
    # The padding token may be the end token itself: count tokens up to the first end token.
    ends = (tokens.input_ids.to(device) == tokenizer.eos_token_id).int().argmax(1, keepdim=True)
    real = (torch.arange(hidden.shape[1], device=device)[None] <= ends).to(hidden)[..., None]
    vectors = [(hidden * real).sum(1) / real.sum(1)]
    if getattr(output, "text_embeds", None) is not None:
        vectors.append(output.text_embeds.float())
    return np.concatenate([_unit(v.cpu().numpy()) for v in vectors], axis=1)


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


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
