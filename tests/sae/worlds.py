"""Rows with known structure."""

import numpy as np

from unbox.sae import ArrayRows


def planted(rows=20_000, width=32, atoms=48, active=3, seed=0):
    """Rows (N, d) that are sparse sums of unit atoms (n, d), and the atoms."""
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(atoms, width))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    chosen = rng.random((rows, atoms)).argpartition(active, axis=1)[:, :active]
    values = rng.uniform(0.5, 1.5, (rows, active))
    x = np.einsum("nk,nkd->nd", values, dictionary[chosen])
    return x.astype(np.float32), dictionary.astype(np.float32)


def noise(rows=3000, width=16, seed=0, block=""):
    """Rows of correlated noise with a mean."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width))
    return ArrayRows((rng.normal(size=(rows, width)) @ mixing + 3).astype(np.float32), block)
