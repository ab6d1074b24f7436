"""Where training starts: the centre and scale of the rows, and the first directions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unbox.errors import UnboxError
from unbox.models.seeds import generator
from unbox.sae.plan import Centre, FirstDirections
from unbox.sae.row_source import RowSource
from unbox.sae.safetensors_io import Shape, read_tensors, write_tensors

#: Rows that the start is measured on.
SAMPLE = 32_768
#: Variance of rows that float32 can still be trained with.
LARGEST = 1e36
#: Part of the variance that the active subspace holds.
SUBSPACE_VARIANCE = 0.99


@dataclass(frozen=True, eq=False)
class Start:
    """What is measured once of a block's rows, on a sample."""

    centre: Tensor
    """(d,) geometric median or mean, in scaled units."""
    scale: float
    """Rows are multiplied by it in training; folded away in the finished SAE."""
    variance: float
    """E |x - E x|^2 in scaled units."""
    basis: Tensor | None
    """(r, d) orthonormal basis of the active subspace, where it is asked for."""
    norm: float = 0.0
    """Median norm of a row, in scaled units; 0: not known, in checkpoints of versions before."""


def write_start(path: Path, start: Start) -> None:
    """Keep a start in a safetensors file."""
    numbers = torch.tensor([start.scale, start.variance, start.norm], dtype=torch.float64)
    basis = {} if start.basis is None else {"basis": start.basis}
    write_tensors(path, {"centre": start.centre, "scale_variance": numbers, **basis})


def read_start(path: Path, width: int, init: FirstDirections) -> Start:
    """Inverse of `write_start`, for rows of a `width`. Raises UnboxError for what is no such start."""
    shapes: dict[str, Shape | None] = {"centre": (width,), "scale_variance": None}
    found = read_tensors(path, shapes | ({"basis": None} if init == "subspace" else {}))
    basis = found.get("basis")
    scale, variance, norm = (*found["scale_variance"].double().flatten().tolist(), 0.0, 0.0, 0.0)[:3]
    bad = basis is not None and (basis.ndim != 2 or basis.shape[1] != width)
    if bad or min(scale, variance) <= 0 or norm < 0:
        raise UnboxError(f"{path} holds no start of a training: its scale or its basis cannot be")
    return Start(found["centre"], scale, variance, basis, norm)


def measure(rows: RowSource, seed: int, centre: Centre, init: FirstDirections, scaled: bool) -> Start:
    """Measures a sample of up to 32,768 rows. Raises UnboxError for constant, NaN or too few rows."""
    x = torch.from_numpy(np.array(rows.sample(SAMPLE, seed), np.float32))
    if len(x) < 2:
        raise UnboxError(f"{len(x)} rows are too few to fit anything to")
    check_finite(x)
    mean = x.mean(0, dtype=torch.float64).float()
    deviations = x - mean
    # In float64: squares of large and of small numbers are none in float32.
    variance = sum(float(part.double().square().sum()) for part in deviations.split(4096)) / len(x)
    if not variance < LARGEST:
        raise UnboxError(
            f"rows reach {float(x.abs().max()):.3g}, whose squares no float32 holds: divide them before"
        )
    if variance <= 1e-12 * float(mean.square().sum(dtype=torch.float64)) or variance == 0:
        raise UnboxError("the rows are all the same vector: there is nothing to explain")
    scale = (rows.width / variance) ** 0.5 if scaled else 1.0
    mean, deviations, x = mean * scale, deviations * scale, x * scale
    middle = mean + geometric_median(deviations) if centre == "median" else mean
    basis = active_subspace(deviations) if init == "subspace" else None
    norm = float(torch.linalg.vector_norm(x, dim=1).median())
    return Start(middle, scale, variance * scale**2, basis, norm)


def check_finite(x: Tensor) -> None:
    """Raises UnboxError if any row holds NaN or infinity, saying how many. One pass over finite rows."""
    if not torch.isfinite(x.sum()) and (bad := int((~torch.isfinite(x).all(-1)).sum())):
        raise UnboxError(f"{bad} of {len(x)} rows hold NaN or infinity; record them again or leave them out")


def geometric_median(x: Tensor, iterations: int = 100, tolerance: float = 1e-6) -> Tensor:
    """(d,): the point of least total distance to the rows of x (N, d), by Weiszfeld's iteration.

    x should be roughly centred: distances come from norms and products.
    """
    squares = x.square().sum(1)
    floor = 1e-6 * float(squares.mean().sqrt()) + 1e-30
    median = x.mean(0)
    for _ in range(iterations):
        distances = (squares - 2 * (x @ median) + median.square().sum()).clamp_min(0).sqrt().clamp_min(floor)
        weights = 1 / distances
        new = (weights @ x) / weights.sum()
        moved, median = float((new - median).norm()), new
        if moved <= tolerance * float(distances.median()):
            break
    return median


def active_subspace(deviations: Tensor) -> Tensor:
    """(r, d): the leading principal directions that hold 99 % of the variance (arXiv 2508.16929)."""
    covariance = deviations.double().T @ deviations.double()
    values, vectors = torch.linalg.eigh(covariance)
    cumulative = values.flip(0).clamp_min(0).cumsum(0) / values.clamp_min(0).sum()
    rank = int((cumulative < SUBSPACE_VARIANCE).sum()) + 1
    return vectors.flip(1)[:, :rank].T.float()


def directions(latents: int, width: int, seed: int, basis: Tensor | None = None) -> Tensor:
    """(n, d): unit vectors, uniform on the sphere, or on that of the subspace."""
    rank = width if basis is None else len(basis)
    drawn = torch.randn(latents, rank, generator=generator(seed))
    if basis is not None:
        drawn = drawn @ basis
    return torch.nn.functional.normalize(drawn, dim=1)
