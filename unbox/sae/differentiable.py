"""Gradients of encoding and decoding, by the sparse operations: no array of (B, n) is made for them either.

The pattern of active latents is taken as given, as in training: a code's gradient is that of its
pre-activation where it is over 0. Only first derivatives.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unbox.sae import sparse


class _PreActivations(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, centred: Tensor, W_enc: Tensor, b_lat: Tensor, pre: Tensor, active: sparse.Active
    ) -> Tensor:
        ctx.save_for_backward(centred, W_enc)
        ctx.active = active
        return pre.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_pre: Tensor) -> tuple[Tensor | None, ...]:
        (centred, W_enc), active, wanted = ctx.saved_tensors, ctx.active, ctx.needs_input_grad
        d_pre = d_pre.contiguous()
        return (
            sparse.mix(d_pre, active, W_enc) if wanted[0] else None,
            sparse.spread(d_pre, active, centred) if wanted[1] else None,
            sparse.total(d_pre, active) if wanted[2] else None,
            None,
            None,
        )


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, active: sparse.Active) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.active = active
        return sparse.mix(values, active, W_dec)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_mixed: Tensor) -> tuple[Tensor | None, ...]:
        (values, W_dec), active, wanted = ctx.saved_tensors, ctx.active, ctx.needs_input_grad
        d_mixed = d_mixed.contiguous()
        return (
            sparse.dots(d_mixed, active, W_dec) if wanted[0] else None,
            sparse.spread(values, active, d_mixed) if wanted[1] else None,
            None,
        )


def pre_activations(
    centred: Tensor, W_enc: Tensor, b_lat: Tensor, pre: Tensor, active: sparse.Active
) -> Tensor:
    """`pre` (E,), the pre-activations of the active entries of rows (B, d), with gradients by all three."""
    return _PreActivations.apply(centred, W_enc, b_lat, pre, active)


def mix(values: Tensor, active: sparse.Active, W_dec: Tensor) -> Tensor:
    """(B, d): `sparse.mix`, with gradients by the values (E,) and by the decoder (n, d)."""
    return _Mix.apply(values, W_dec, active)
