"""Encoding and decoding by sparse operations, with gradients: what SAEs and transcoders share."""

import torch
from torch import Tensor

from unbox.sae import differentiable, sparse, topk
from unbox.sae.codes import Codes, pack


def encode(x: Tensor, W_enc: Tensor, b_pre: Tensor, b_lat: Tensor, k: int, threshold: Tensor | None) -> Codes:
    """Codes of vectors x (..., d), in the weights' dtype; computed in slices. The k largest pre-activations,
    or all over a threshold, () or (n,). Gradients take the active latents as given."""
    centred = x.reshape(-1, x.shape[-1]).to(W_enc) - b_pre
    with torch.no_grad():
        if threshold is None:
            active, pre = topk.by_row(centred, W_enc, b_lat, k)
        else:
            active, pre = topk.above(centred, W_enc, b_lat, threshold.to(centred))
    if torch.is_grad_enabled() and any(t.requires_grad for t in (centred, W_enc, b_lat)):
        pre = differentiable.pre_activations(centred, W_enc, b_lat, pre, active)
    if threshold is None:
        shape = (*x.shape[:-1], k)
        return Codes(pre.relu().reshape(shape), active.indices.reshape(shape))
    codes = pack(pre.relu(), active.indices, active.rows, len(centred))
    return Codes(*(part.reshape(*x.shape[:-1], part.shape[-1]) for part in codes))


def combine(codes: Codes, W_dec: Tensor) -> Tensor:
    """(..., d): the codes' sum of decoder directions (n, d), without a bias."""
    lead, k = codes.indices.shape[:-1], codes.indices.shape[-1]
    active = sparse.Active.of_rows(codes.indices.reshape(-1, k), len(W_dec))
    mixed = differentiable.mix(codes.values.reshape(-1).to(W_dec.dtype), active, W_dec)
    return mixed.reshape(*lead, W_dec.shape[1])
