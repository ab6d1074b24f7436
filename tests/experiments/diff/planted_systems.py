"""Stores of systems whose features are known: the SAE's directions are the channels."""

from pathlib import Path

import numpy as np
import torch

from activation_store import Sample, Schema, Store, Writer
from unbox.sae import SAE

WIDTH, GRID = 12, 4


def channel_sae(k: int = 4, width: int = WIDTH) -> SAE:
    """Latent i is channel i: codes are the k largest positive channels of a row."""
    one = torch.eye(width)
    return SAE(one, one.clone(), torch.zeros(width), torch.zeros(width), k, block="mid.0", name="mid.0")


def codes_of(rows: np.ndarray, k: int = 4) -> np.ndarray:
    """What `channel_sae` gives for rows (..., width): the k largest, where they are positive."""
    least = np.sort(rows, -1)[..., -k, None]
    return np.where((rows >= least) & (rows > 0), rows, 0)


def system_rows(
    images: int, steps: int, changed: dict[int, float], own: int, shared: int = 0, noise: float = 0.3
) -> np.ndarray:
    """(images, steps, 1, GRID, GRID, WIDTH): channels of a scene that all systems share, noise of their own,
    and on `changed` channels more of it."""
    shape = (images, steps, 1, GRID, GRID, WIDTH)
    rows = np.random.default_rng(shared).normal(0.5, 1, (images, 1, 1, 1, 1, WIDTH)) + np.zeros(shape)
    rows += np.random.default_rng([shared, own]).normal(0, noise, shape)
    for channel, more in changed.items():
        rows[..., channel] += more
    return rows.astype(np.float32)


def store_of(path: Path, rows: np.ndarray, first_seed: int = 100, picture: bytes = b"") -> Store:
    """A store of rows (images, steps, 1, y, x, width) in float32, each image with this picture."""
    numbers = tuple(range(rows.shape[1]))
    told = {"steps": rows.shape[1], "guidance": 0.0, "model": {"system": {"name": path.name}}}
    schema = Schema(
        blocks={"mid.0": rows.shape[3:]}, steps=numbers, branches=("cond",), dtype="float32",
        shard_samples=16, provenance=told,
    )  # fmt: skip
    samples = [Sample(i, f"picture {i}", first_seed + i, {}) for i in range(len(rows))]
    with Writer(path, schema, total=len(rows)) as writer:
        writer.append(samples, {"mid.0": rows}, [picture] * len(rows))
    return Store.open(path)
