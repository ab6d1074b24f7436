"""A training step on CPU by dense products in bf16: for so many active latents that gathering costs more.

The same step as `compiled_step`, in slices: of rows forward, of latents backward, so that no array (rows, n)
is whole. Codes and reconstructions are as exact as the products (under autocast every product is so), where
the gathering step scores winners again in float32. To be called within `threads.worker_threads`.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from unbox.sae import sparse, topk
from unbox.sae.cpu.compiled_step import (
    EXTRA,
    LEAST,
    SLICE,
    STEP,
    ForwardPass,
    arrays_of,
    bits_of,
    sum_of_ranges,
)
from unbox.sae.cpu.threads import parallel_for

#: Of two cores with AMX: products in bf16 (operations a second), rows gathered, arrays gone through (bytes a
#: second). Only their ratios count, and they go with the cores alike (docs/sae.md, Speed).
PRODUCTS, GATHERED, STREAMED = 2.7e12, 5e10, 2e10
#: Latents of a slice backward: two arrays (latents, rows) of a thread stay in its cache.
LATENTS = 256


def is_dense(rows: int, d: int, n: int, k: int) -> bool:
    """Whether dense products take less time than gathering rows, for a batch of rows.

    Gathering: four rows of d float32 for each entry. Dense: four products more than the encoder's, and six
    passes over (rows, n). Without instructions for tiles (AMX) a product takes several times as long, and
    does not pay.
    """
    if not getattr(torch.cpu, "_is_amx_tile_supported", bool)():
        return False
    gathering = 4 * rows * k * d * 4 / GATHERED
    return gathering > 4 * 2 * rows * n * d / PRODUCTS + 6 * rows * n * 2 / STREAMED


def forward(x: Tensor, weights: Mapping[str, Tensor], low: Tensor, k: int, factor: float) -> ForwardPass:
    """As `compiled_step.forward`."""
    from unbox.sae.cpu import step_kernels

    (count, d), n, b_pre = x.shape, len(low), weights["b_pre"]
    centred = low.new_empty(count, d + EXTRA)
    indices = torch.empty(count, k, dtype=torch.int64)
    values, slopes = x.new_empty(count, k), x.new_empty(count, k)
    short = low.new_empty(count, d)
    decoder = weights["W_dec"].to(low.dtype)
    size, step = topk.group(n, max(k, LEAST)), max(STEP, SLICE // n // STEP * STEP)
    squares, sums = dict[int, float](), dict[int, np.ndarray]()

    def of_rows(part: slice) -> None:
        step_kernels.centre_rows(part.start, part.stop, x.numpy(), b_pre.numpy(), bits_of(centred))
        total, square = x.new_zeros(d), 0.0
        for start in range(part.start, part.stop, step):
            at = slice(start, min(start + step, part.stop))
            pre = centred[at] @ low.T
            found = torch.from_numpy(
                topk.places_of_largest(pre.view(sparse.WHOLE[pre.itemsize]).numpy(), k, size)
            )
            codes = pre.gather(1, found).relu_()
            e = (pre.zero_().scatter_(1, found, codes) @ decoder).to(x.dtype).sub_(x[at]).add_(b_pre)
            short[at] = e
            of_codes = torch.mm(short[at], decoder.T, out=pre).gather(1, found).to(x.dtype)
            slopes[at] = of_codes.mul_(factor).masked_fill_(codes == 0, 0)
            indices[at], values[at] = found, codes
            total += e.sum(0)
            square += float(e.square().sum())
        squares[part.start], sums[part.start] = square, total.numpy()

    parallel_for(of_rows, count)
    return ForwardPass(
        indices,
        values,
        slopes,
        rows=centred,
        reconstruction_grad=short,
        bias=sum_of_ranges(sums),
        squares=sum(squares[start] for start in sorted(squares)),
        factor=factor,
    )


def backward_and_update(
    forward_pass: ForwardPass,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, tuple[Tensor, Tensor]],
    low: Tensor,
    adam: np.ndarray,
    dead: Tensor | None = None,
    revival: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """As `compiled_step.backward_and_update`; the loop over latents is given gradients, not entries."""
    from unbox.sae.cpu import step_kernels

    run, (n, d) = forward_pass, weights["W_enc"].shape
    count, k = run.indices.shape
    flat, values, slopes = run.indices.reshape(-1), run.values.reshape(-1), run.slopes.reshape(-1)
    order = sparse.stable_argsort(flat, n)
    starts = torch.searchsorted(flat[order], torch.arange(n + 1))
    given = torch.zeros(n, dtype=torch.int64)  # place of a latent among those of its slice
    none = (order[:0], torch.zeros(n + 1, dtype=torch.int64), run.values, run.slopes)
    entries = tuple(map(bits_of, (*none, run.rows, weights["b_pre"][:0], run.reconstruction_grad)))
    state, d_pre = arrays_of(weights, moments), dict[int, np.ndarray]()
    fired, silent = torch.zeros(n, dtype=torch.bool), np.empty(n, np.bool_)
    kind = weights["b_pre"].numpy().dtype.type

    def of_latents(part: slice) -> None:
        d_pre[part.start] = sums = np.zeros(d, kind)
        for start in range(part.start, part.stop, LATENTS):
            at = slice(start, min(start + LATENTS, part.stop))
            size = at.stop - at.start
            mine = order[starts[at.start] : starts[at.stop]]
            where = (flat[mine] - at.start, mine // k)
            dense = low.new_zeros(2, size, count)
            dense[0].index_put_(where, values[mine].to(low.dtype))
            dense[1].index_put_(where, slopes[mine].to(low.dtype))
            W_dec = (dense[0] @ run.reconstruction_grad).to(values.dtype).mul_(run.factor)
            W_enc = (dense[1] @ run.rows[:, :d]).to(values.dtype)
            b_lat = values.new_zeros(size).index_add_(0, where[0], slopes[mine])
            if dead is not None and revival is not None:
                first, last = torch.searchsorted(dead, torch.tensor([at.start, at.stop])).tolist()
                for gradient, added in zip((W_enc, W_dec, b_lat), revival, strict=True):
                    gradient.index_add_(0, dead[first:last] - at.start, added[first:last])
            given[at] = torch.arange(size)
            gradients = tuple(map(bits_of, (given, W_enc, W_dec, b_lat)))
            step_kernels.backward_latents(
                at.start,
                at.stop,
                entries,
                kind(run.factor),
                gradients,
                state,
                bits_of(low),
                adam,
                sums,
                silent,
            )
            fired[flat[mine[values[mine] > 0]]] = True

    parallel_for(of_latents, n)
    return sum_of_ranges(d_pre) + run.bias * run.factor, fired
