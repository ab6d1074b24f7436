"""Loops in machine code (numba), for training on CPU: over rows, and over latents.

They do what `gradients.through` and `Fit._update` do with torch, which stays the path of every other case. A
loop takes one row (or latent) through everything at once, while it is in the core's cache: a row of the batch
reads its latents' decoder rows once for two uses, and a gradient never leaves the cache. Each runs on a
range, without Python's lock; sums within a row may be taken in any order.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

F = np.float32
_compiled: Any = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


def _single(value: Any) -> Any:
    """float32 of a float32, or of the bits of a bf16. Compiled code has what is below in its place."""
    raise NotImplementedError


@overload(_single, strict=False)
def _single_compiled(value: Any) -> Any:
    if isinstance(value, types.Float):
        return lambda value: value
    return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)


@_compiled
def winners(array: Any, maxima: Any, k: int, indices: Any) -> None:
    """The k largest of each row of `array` (R, n), as places in `indices` (R, k), largest first, for small k.

    Whole numbers. maxima (R, groups) are of entries s * groups + g over s: the k-th largest of them
    bounds the k-th largest of all from below, and only groups that reach it are looked into. Of equals the
    first.
    """
    count, n = array.shape
    groups = maxima.shape[1]
    size = n // groups
    top = np.empty(k, array.dtype)
    at, found = np.zeros(n, np.int64), np.empty(n, array.dtype)
    for r in range(count):
        number = 0
        for g in range(groups):
            value = maxima[r, g]
            if number < k or value > top[k - 1]:
                j = min(number, k - 1)
                while j > 0 and top[j - 1] < value:
                    top[j] = top[j - 1]
                    j -= 1
                top[j] = value
                number += 1
        number, bound = 0, top[k - 1]
        for g in range(groups + 1):
            if g < groups and maxima[r, g] < bound:
                continue
            first, step, last = (g, groups, size * groups) if g < groups else (size * groups, 1, n)
            for place in range(first, last, step):
                value = array[r, place]
                if value >= bound:
                    j = number
                    while j > 0 and (found[j - 1] < value or (found[j - 1] == value and at[j - 1] > place)):
                        found[j], at[j] = found[j - 1], at[j - 1]
                        j -= 1
                    found[j], at[j] = value, place
                    number += 1
        indices[r] = at[:k]


@_compiled
def centre(first: int, last: int, x: Any, b_pre: Any, low: Any) -> None:
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
def rows(
    first: int,
    last: int,
    x: Any,
    b_pre: Any,
    indices: Any,
    W_enc: Any,
    b_lat: Any,
    W_dec: Any,
    factor: Any,
    values: Any,
    slopes: Any,
    error: Any,
    error_half: Any,
    bias: Any,
) -> Any:
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
        for j in range(0, k - 1, 2):  # two at a time: half the passes over e
            one, w = values[r, j], W_dec[indices[r, j]]
            two, v = values[r, j + 1], W_dec[indices[r, j + 1]]
            for i in range(d):
                e[i] += one * w[i] + two * v[i]
        if k % 2:
            one, w = values[r, k - 1], W_dec[indices[r, k - 1]]
            for i in range(d):
                e[i] += one * w[i]
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
def latents(
    first: int,
    last: int,
    order: Any,
    starts: Any,
    values: Any,
    slopes: Any,
    x: Any,
    b_pre: Any,
    error: Any,
    factor: Any,
    revived: Any,
    d_encoder: Any,
    d_decoder: Any,
    d_bias: Any,
    W_enc: Any,
    W_dec: Any,
    b_lat: Any,
    m_enc: Any,
    m_dec: Any,
    m_lat: Any,
    v_enc: Any,
    v_dec: Any,
    v_lat: Any,
    low: Any,
    adam: Any,
    pull: Any,
    fired: Any,
) -> None:
    """Latents [first, last): gradients, the decoder's projection, Adam, the unit norm, the low copy.

    `order` (E,) are entries (row * k + rank) by latent, those of latent l from starts[l] to starts[l + 1]. Of
    `x` (B, d or more) the first d are read, less `b_pre`; `x` and `error` (B, d) are float32 or the bits of
    bf16. Where `revived` (n,) is not negative it is the row of AuxK's gradients that are added. `adam`: see
    `native.adam_numbers`. `low` (n, d + 1 or more), float32 or the bits of bf16, takes a copy of the encoder
    and, in column d, of b_lat. Adds -(gradient of b_lat) @ W_enc to `pull` (d,); sets `fired` (n,).
    """
    d, k = W_enc.shape[1], values.shape[1]
    by_enc, by_dec = np.empty(d, W_enc.dtype), np.empty(d, W_enc.dtype)
    for l in range(first, last):  # noqa: E741
        u, w = W_enc[l], W_dec[l]
        for i in range(d):
            by_enc[i] = F(0)
            by_dec[i] = F(0)
        by_lat = F(0)
        on = False
        for p in range(starts[l], starts[l + 1]):
            row, rank = order[p] // k, order[p] % k
            value, slope = values[row, rank] * factor, slopes[row, rank]
            on = on or value > 0
            if value != 0:
                own, e = x[row], error[row]
                for i in range(d):
                    by_enc[i] += slope * _single(own[i])
                    by_dec[i] += value * _single(e[i])
                by_lat += slope
        fired[l] = on
        for i in range(len(b_pre)):
            by_enc[i] -= by_lat * b_pre[i]
        if revived[l] >= 0:
            at = revived[l]
            for i in range(d):
                by_enc[i] += d_encoder[at, i]
                by_dec[i] += d_decoder[at, i]
            by_lat += d_bias[at]
        along = F(0)
        for i in range(d):
            along += by_dec[i] * w[i]
        for i in range(d):
            pull[i] -= by_lat * u[i]
        for i in range(d):
            by_dec[i] -= along * w[i]
        _adam(u, by_enc, m_enc[l], v_enc[l], adam)
        _adam(w, by_dec, m_dec[l], v_dec[l], adam)
        by_enc[0] = by_lat
        _adam(b_lat[l : l + 1], by_enc[:1], m_lat[l : l + 1], v_lat[l : l + 1], adam)
        square = F(0)
        for i in range(d):
            square += w[i] * w[i]
        scale = F(1) / max(np.sqrt(square), F(1e-12))
        for i in range(d):
            w[i] *= scale
        _copy(u, low[l])
        _copy(b_lat[l : l + 1], low[l, d:])


def _copy(row: Any, to: Any) -> None:
    """float32 to float32, or to the bits of bf16. Compiled code has what is below in its place."""
    raise NotImplementedError


@overload(_copy, strict=False)
def _copy_compiled(row: Any, to: Any) -> Any:
    if isinstance(to.dtype, types.Float):

        def copy(row: Any, to: Any) -> None:
            for i in range(len(row)):
                to[i] = row[i]

        return copy
    return lambda row, to: _halve(row, to)


@_compiled
def _adam(weight: Any, gradient: Any, mean: Any, square: Any, adam: Any) -> None:
    beta1, beta2, eps, rate, correction = adam[0], adam[1], adam[2], adam[3], adam[4]
    for i in range(len(weight)):
        g = gradient[i]
        mean[i] = beta1 * mean[i] + (F(1) - beta1) * g
        square[i] = beta2 * square[i] + (F(1) - beta2) * g * g
        weight[i] -= rate * mean[i] / (np.sqrt(square[i]) * correction + eps)


@_compiled
def _halve(row: Any, half: Any) -> None:
    """float32 to the bits of bf16, to nearest even."""
    bits = row.view(np.uint32)
    for i in range(len(bits)):
        x = bits[i]
        odd = np.uint32(np.uint32(x >> np.uint32(16)) & np.uint32(1))
        half[i] = np.uint16(np.uint32(x + np.uint32(odd + np.uint32(0x7FFF))) >> np.uint32(16))
