"""The arithmetic of a top-k SAE's step and nothing else: the bound of `sae_step.py`.

    products   the encoder's, in the precision that ours uses; with dead latents five more of AuxK's
               (pre-activations, reconstruction, three gradients), each over the dead alone
    gathers    a decoder row for each active entry, for the reconstruction and the gradient of its code; a row
               of x and one of the error for each entry, for the gradients of both matrices
    passes     one read of the pre-activations; Adam over both matrices: weights and two moments read and
               written once

No winner is looked for and nothing is sorted: active entries are drawn evenly beforehand. Loops are
numba's, over as many threads as torch has.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch

F = np.float32
_loop = numba.njit(parallel=True, fastmath=True, error_model="numpy")


@_loop
def decode_rows(x: Any, indices: Any, values: Any, decoder: Any, error: Any, slopes: Any) -> None:
    """error (B, d) = sum of an entry's value times its decoder row, less x; slopes (B, k) = error . row."""
    for r in numba.prange(len(x)):
        e = error[r]
        for i in range(x.shape[1]):
            e[i] = -x[r, i]
        for j in range(indices.shape[1]):
            w, value = decoder[indices[r, j]], values[r, j]
            for i in range(x.shape[1]):
                e[i] += value * w[i]
        for j in range(indices.shape[1]):
            w, slope = decoder[indices[r, j]], F(0)
            for i in range(x.shape[1]):
                slope += e[i] * w[i]
            slopes[r, j] = slope


@_loop
def step_latents(
    x: Any, error: Any, rows: Any, starts: Any, weights: Any, means: Any, squares: Any, rate: float
) -> None:
    """Adam's step of each latent's rows (2, n, d), by the sums of its entries' rows of x and of the error."""
    n, d = weights.shape[1:]
    for latent in numba.prange(n):
        g = np.zeros((2, d), F)
        for p in range(starts[latent], starts[latent + 1]):
            of_x, of_error = x[rows[p]], error[rows[p]]
            for i in range(d):
                g[0, i] += of_x[i]
                g[1, i] += of_error[i]
        for matrix in range(2):
            w, m, v = weights[matrix, latent], means[matrix, latent], squares[matrix, latent]
            for i in range(d):
                one = g[matrix, i]
                m[i] = F(0.9) * m[i] + F(0.1) * one
                v[i] = F(0.999) * v[i] + F(0.001) * one * one
                w[i] -= rate * m[i] / (np.sqrt(v[i]) + F(1e-8))


@_loop
def row_maxima(pre: Any, found: Any) -> None:
    """The largest of each row (B, n) of whole numbers: one read of all."""
    for r in numba.prange(len(pre)):
        top = pre[r, 0]
        for i in range(pre.shape[1]):
            top = max(top, pre[r, i])
        found[r] = top


def bound_step(d: int, n: int, k: int, x: torch.Tensor, dead: int, device: str) -> Callable[[Any], None]:
    """What is above, as a step of (d, n, k) on rows x (B, d) with so many `dead` latents; on a CPU alone."""
    from unbox.sae.precision import low_precision

    torch.set_grad_enabled(False)
    numba.set_num_threads(torch.get_num_threads())
    kind, rng = low_precision("auto", torch.device(device)), np.random.default_rng(0)
    weights = rng.standard_normal((2, n, d)).astype(F) / F(d**0.5)
    means, squares = np.zeros_like(weights), np.ones_like(weights)
    low = torch.from_numpy(weights[0]).to(kind)
    indices = rng.integers(0, n, (len(x), k))
    rows = np.argsort(indices.reshape(-1), kind="stable") // k
    starts = np.concatenate([[0], np.bincount(indices.reshape(-1), minlength=n).cumsum()])
    values, slopes = rng.random((len(x), k)).astype(F), np.empty((len(x), k), F)
    error, found = np.empty(x.shape, F), np.empty(len(x), np.int16)
    pre = torch.empty(len(x), n, dtype=kind)
    whole = {2: torch.int16, 4: torch.int32}[pre.itemsize]
    found = found.astype({2: np.int16, 4: np.int32}[pre.itemsize])

    def auxk(c: torch.Tensor, e: torch.Tensor) -> None:
        z = c @ low[:dead].T
        g = z @ low[:dead]
        d_z = e @ low[:dead].T
        z.T @ g, d_z.T @ c

    def step(given: torch.Tensor) -> None:
        c = given.to(kind)
        torch.mm(c, low.T, out=pre)
        row_maxima(pre.view(whole).numpy(), found)
        decode_rows(given.numpy(), indices, values, weights[1], error, slopes)
        if dead:
            auxk(c, torch.from_numpy(error).to(kind))
        step_latents(given.numpy(), error, rows, starts, weights, means, squares, F(1e-4))

    return step
