"""The loops of a training step on CPU in machine code (numba): forward over rows, backward over latents.

They do what `sparse.forward_backward` and `SAETrainer._update` do with torch, which stays the path of
every other case. A loop takes one row (or latent) through everything at once, while it is in the core's
cache: a row of the batch reads its latents' decoder rows once for two uses, and a gradient never leaves the
cache. Each runs on a range, without Python's lock; sums within a row may be taken in any order.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from activation_store.loop_compiler import compiled

F = np.float32
Arrays = tuple[np.ndarray, ...]
_compiled: Any = compiled(error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


def _single(value: np.float32 | np.uint16) -> np.float32:
    """float32 of a float32, or of the bits of a bf16. Compiled code has what is below in its place."""
    raise NotImplementedError


@overload(_single, strict=False)
def _single_compiled(value: types.Type) -> Callable[..., np.float32]:
    if isinstance(value, types.Float):
        return lambda value: value
    return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)


@_compiled
def centre_rows(first: int, last: int, x: np.ndarray, b_pre: np.ndarray, low: np.ndarray) -> None:
    """Rows [first, last) of x - b_pre (B, d) to `low` (B, d + 1 or more), float32 or the bits of bf16, with a
    one behind and zeros after it."""
    d = x.shape[1]
    row = np.zeros(low.shape[1], x.dtype)
    row[d] = 1
    for r in range(first, last):
        for i in range(d):
            row[i] = x[r, i] - b_pre[i]
        _copy(row, low[r])


@_compiled
def forward_rows(
    first: int,
    last: int,
    x: np.ndarray,
    b_pre: np.ndarray,
    indices: np.ndarray,
    W_enc: np.ndarray,
    b_lat: np.ndarray,
    W_dec: np.ndarray,
    factor: float,
    values: np.ndarray,
    slopes: np.ndarray,
    error: np.ndarray,
    error_half: np.ndarray,
    bias: np.ndarray,
) -> float:
    """Rows [first, last) of a batch through the SAE and back; returns the sum of |x^ - x|^2.

    Reads `x` (B, d) and `indices` (B, k); writes `values` and `slopes` (B, k), the codes and the loss's
    gradients by the pre-activations, and x^ - x to `error` (B, d) and, as the bits of bf16, `error_half`
    (either may be of no rows); adds it to `bias` (d,). `factor` is 2 / (rows * variance).
    """
    d, k = x.shape[1], indices.shape[1]
    centred, e = np.empty(d, x.dtype), np.empty(d, x.dtype)
    squares = 0.0
    for r in range(first, last):
        for i in range(d):
            centred[i] = x[r, i] - b_pre[i]
            e[i] = -centred[i]
        for j in range(k):
            latent = indices[r, j]
            w = W_enc[latent]
            pre = F(0)
            for i in range(d):
                pre += centred[i] * w[i]
            pre += b_lat[latent]
            value = F(0) if pre <= 0 else pre  # NaN stays, to be seen in the metrics
            values[r, j] = value
        _decode(values[r], indices[r], W_dec, e)
        square = F(0)
        for i in range(d):
            square += e[i] * e[i]
        for i in range(d):
            bias[i] += e[i]
        squares += float(square)
        for j in range(k):
            slope = F(0)
            if values[r, j] != 0:
                w = W_dec[indices[r, j]]
                for i in range(d):
                    slope += e[i] * w[i]
            slopes[r, j] = slope * factor
        if len(error):
            error[r] = e
        if len(error_half):
            _halve(e, error_half[r])
    return squares


@_compiled
def _decode(values: np.ndarray, indices: np.ndarray, W_dec: np.ndarray, e: np.ndarray) -> None:
    """Add a row's codes (k,) times their decoder rows to e (d,), two at a time: half the passes over e."""
    d, k = len(e), len(values)
    for j in range(0, k - 1, 2):
        one, w = values[j], W_dec[indices[j]]
        two, v = values[j + 1], W_dec[indices[j + 1]]
        for i in range(d):
            e[i] += one * w[i] + two * v[i]
    if k % 2:
        one, w = values[k - 1], W_dec[indices[k - 1]]
        for i in range(d):
            e[i] += one * w[i]


@_compiled
def backward_latents(
    first: int,
    last: int,
    batch: Arrays,
    factor: float,
    auxk: Arrays,
    state: Arrays,
    low: np.ndarray,
    adam: np.ndarray,
    d_pre: np.ndarray,
    fired: np.ndarray,
) -> None:
    """Latents [first, last): gradients, the decoder's projection, Adam, the unit norm, the low copy.

    `batch`: entries `order` (E,) (row * k + rank) by latent, those of latent l from `starts[l]` to
    `starts[l + 1]`; codes and gradients by the pre-activations (B, k); `x` (B, d or more), of which d are
    read, less `b_pre`; `x` and `error` (B, d) are float32 or the bits of bf16. `auxk`: `revived` (n,), the
    row of AuxK's gradients (W_enc, W_dec, b_lat) to add, or negative. `state`: those weights, their means
    and mean squares. `adam`: see `compiled_step.adam_numbers`. `low` (n, d + 1 or more) takes a copy of the
    encoder and, in column d, of b_lat. Adds -(gradient of b_lat) @ W_enc to `d_pre` (d,); sets `fired` (n,).
    """
    order, starts, values, slopes, x, b_pre, error = batch
    revived, d_encoder, d_decoder, d_bias = auxk
    W_enc, W_dec, b_lat, m_enc, m_dec, m_lat, v_enc, v_dec, v_lat = state
    d, k = W_enc.shape[1], values.shape[1]
    g_enc, g_dec = np.empty(d, W_enc.dtype), np.empty(d, W_enc.dtype)
    for l in range(first, last):  # noqa: E741
        u, w = W_enc[l], W_dec[l]
        g_enc[:] = F(0)
        g_dec[:] = F(0)
        g_lat, on = F(0), False
        for p in range(starts[l], starts[l + 1]):
            row, rank = order[p] // k, order[p] % k
            value, slope = values[row, rank] * factor, slopes[row, rank]
            on = on or value > 0
            if value != 0:
                of_row, e = x[row], error[row]
                for i in range(d):
                    g_enc[i] += slope * _single(of_row[i])
                    g_dec[i] += value * _single(e[i])
                g_lat += slope
        fired[l] = on
        for i in range(len(b_pre)):
            g_enc[i] -= g_lat * b_pre[i]
        at = revived[l]
        if at >= 0:
            for i in range(d):
                g_enc[i] += d_encoder[at, i]
                g_dec[i] += d_decoder[at, i]
            g_lat += d_bias[at]
        for i in range(d):
            d_pre[i] -= g_lat * u[i]
        _project(g_dec, w)
        _adam(u, g_enc, m_enc[l], v_enc[l], adam)
        _adam(w, g_dec, m_dec[l], v_dec[l], adam)
        g_enc[0] = g_lat
        _adam(b_lat[l : l + 1], g_enc[:1], m_lat[l : l + 1], v_lat[l : l + 1], adam)
        _make_unit(w)
        _copy(u, low[l])
        _copy(b_lat[l : l + 1], low[l, d:])


@_compiled
def _project(gradient: np.ndarray, w: np.ndarray) -> None:
    """Take the part along the unit vector w (d,) out of a gradient (d,)."""
    along = F(0)
    for i in range(len(w)):
        along += gradient[i] * w[i]
    for i in range(len(w)):
        gradient[i] -= along * w[i]


@_compiled
def _make_unit(w: np.ndarray) -> None:
    """Divide w (d,) by its length."""
    square = F(0)
    for i in range(len(w)):
        square += w[i] * w[i]
    scale = F(1) / max(np.sqrt(square), F(1e-12))
    for i in range(len(w)):
        w[i] *= scale


def _copy(row: np.ndarray, to: np.ndarray) -> None:
    """float32 to float32, or to the bits of bf16. Compiled code has what is below in its place."""
    raise NotImplementedError


@overload(_copy, strict=False)
def _copy_compiled(row: types.Array, to: types.Array) -> Callable[..., None]:
    if isinstance(to.dtype, types.Float):

        def copy(row: np.ndarray, to: np.ndarray) -> None:
            for i in range(len(row)):
                to[i] = row[i]

        return copy
    return lambda row, to: _halve(row, to)


@_compiled
def _adam(
    weight: np.ndarray, gradient: np.ndarray, mean: np.ndarray, square: np.ndarray, adam: np.ndarray
) -> None:
    beta1, beta2, eps, rate, correction = adam[0], adam[1], adam[2], adam[3], adam[4]
    for i in range(len(weight)):
        g = gradient[i]
        mean[i] = beta1 * mean[i] + (F(1) - beta1) * g
        square[i] = beta2 * square[i] + (F(1) - beta2) * g * g
        weight[i] -= rate * mean[i] / (np.sqrt(square[i]) * correction + eps)


@_compiled
def _halve(row: np.ndarray, half: np.ndarray) -> None:
    """float32 to the bits of bf16, to nearest even."""
    bits = row.view(np.uint32)
    for i in range(len(bits)):
        x = bits[i]
        odd = np.uint32(np.uint32(x >> np.uint32(16)) & np.uint32(1))
        half[i] = np.uint16(np.uint32(x + np.uint32(odd + np.uint32(0x7FFF))) >> np.uint32(16))
