"""How well an SAE explains rows: by step, branch and position of the images, with intervals."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import reduce
from itertools import product
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unbox.errors import UnboxError
from unbox.sae.latent_statistics import ROWS, LatentSums
from unbox.sae.model import SAE
from unbox.sae.row_source import ImageRows, RowsLike, RowSource, row_sources
from unbox.statistics import bootstrap_of_sums
from unbox.validation import Count, checked

#: A latent active in more than this part of the rows is dense.
DENSE = 0.1
#: Edges of the histogram of firing densities: powers of ten.
DENSITY_EDGES = tuple(10.0**e for e in range(-7, 1))

#: Step and branch of rows; None: of all.
Cell = tuple[int | None, str | None]
#: Resamplings of images for the interval.
BOOTSTRAPS = 1000


@dataclass(frozen=True)
class GroupFigures:
    """Figures of one step, branch, or step and branch."""

    step: int | None
    branch: str | None
    rows: int
    fvu: float
    explained_variance: float
    l0: float


@dataclass(frozen=True)
class Figures:
    """What an evaluation found. Sums are in float64."""

    rows: int
    """Rows that were encoded."""
    fvu: float
    """Fraction of variance unexplained: sum |x - x^|^2 / sum |x - mean x|^2."""
    fvu_interval: tuple[float, float] | None
    """95 % bootstrap interval over images; None for rows that are not of images."""
    explained_variance: float
    """1 - FVU: channels weigh by their variance."""
    explained_variance_per_channel: float
    """Mean over channels of 1 - var(x - x^) / var(x), as sdxl-unbox and arXiv 2410.22366 report it."""
    l0: float
    """Mean number of active latents of a row."""
    dead_fraction: float
    """Part of the latents never active."""
    dense_fraction: float
    """Part of the latents active in more than a tenth of the rows."""
    density_histogram: tuple[int, ...]
    """Latents by firing density: those below 1e-7 (dead ones too), then by decade up to 1."""
    decoder_cosine: Mapping[str, float]
    """Largest cosine of each decoder direction with another: mean, median, 99th percentile."""
    groups: tuple[GroupFigures, ...] = ()
    """By step, by branch, and by both, where the rows have them."""
    positions: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    """FVU at each position of the block's grid, (y, x), where the rows have one."""

    def to_json(self) -> dict[str, Any]:
        """JSON object of every figure."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Figures":
        """Inverse of `to_json`, also from a JSON file."""
        groups = tuple(GroupFigures(**group) for group in value["groups"])
        interval = value["fvu_interval"]
        read: dict[str, Any] = {
            "groups": groups,
            "fvu_interval": None if interval is None else tuple(interval),
            "density_histogram": tuple(value["density_histogram"]),
            "positions": tuple(map(tuple, value["positions"])),
        }
        return cls(**{**value, **read})

    def table(self) -> str:
        """Lines of text: the whole, then each group."""
        head = f"{'step':>5} {'branch':>7} {'rows':>10} {'FVU':>8} {'expl. var.':>10} {'L0':>7}"
        whole = GroupFigures(None, None, self.rows, self.fvu, self.explained_variance, self.l0)
        lines = [
            f"{'all' if g.step is None else g.step:>5} {g.branch or 'all':>7} {g.rows:>10,} {g.fvu:>8.4f} "
            f"{g.explained_variance:>10.4f} {g.l0:>7.1f}"
            for g in (whole, *self.groups)
        ]
        return "\n".join([head, *lines])


@dataclass
class Sums:
    """Sums over rows, per channel where that is needed; they add."""

    rows: int
    x: Tensor
    x2: Tensor
    e: Tensor
    e2: Tensor
    active: float

    @classmethod
    def of(cls, x: Tensor, error: Tensor, l0: Tensor) -> "Sums":
        """Of rows x (N, d), errors (N, d), and numbers of active latents (N,)."""
        x, error = x.double(), error.double()
        return cls(len(x), x.sum(0), x.square().sum(0), error.sum(0), error.square().sum(0), float(l0.sum()))

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def variance(self) -> Tensor:
        """(d,) of the rows, times their number."""
        return (self.x2 - self.x.square() / self.rows).clamp_min(0)

    @property
    def fvu(self) -> float:
        """NaN is never given: rows without variance have FVU 0 if they are explained, else 1."""
        total, error = float(self.variance.sum()), float(self.e2.sum())
        return error / total if total > 0 else float(error > 0)

    @property
    def per_channel(self) -> float:
        """Mean over the channels that vary of 1 - var(error) / var(x)."""
        error = (self.e2 - self.e.square() / self.rows).clamp_min(0)
        varies = self.variance > 0
        return float((1 - error[varies] / self.variance[varies]).mean()) if bool(varies.any()) else 0.0

    @property
    def l0(self) -> float:
        """Mean number of active latents."""
        return self.active / self.rows


@torch.no_grad()
def evaluate(sae: SAE, rows: RowsLike, *, limit: int | None = None) -> Figures:
    """Figures of an SAE on rows: a block of a store (then by step, branch and position too), or an array.

    `limit` bounds the number of rows, by taking images (or rows) evenly. Raises UnboxError for rows of
    another width, or none.
    """
    source = _source(sae, rows)
    limit = None if limit is None else checked(Count, "limit", limit, "evaluate")
    latents = LatentSums.zero(sae.latents)
    cells: dict[Cell, Sums] = {}
    images: list[Sums] = []
    squares = None
    for image in _images(source, limit):
        x = torch.from_numpy(image.reshape(-1, sae.width))
        error, l0 = _errors(sae, x, latents)
        for key, chosen in _cells(source, image.shape):
            found = Sums.of(x[chosen], error[chosen], l0[chosen])
            cells[key] = cells[key] + found if key in cells else found
        if image.ndim == 5:
            images.append(Sums.of(x, error, l0))
            squares = _add_positions(squares, source, len(images) - 1, error, x, image.shape)
    whole = reduce(add, cells.values())
    density = latents.active / latents.rows
    return Figures(
        rows=whole.rows,
        fvu=whole.fvu,
        fvu_interval=_interval(images) if len(images) > 1 else None,
        explained_variance=1 - whole.fvu,
        explained_variance_per_channel=whole.per_channel,
        l0=whole.l0,
        dead_fraction=float((density == 0).double().mean()),
        dense_fraction=float((density > DENSE).double().mean()),
        density_histogram=density_histogram(density),
        decoder_cosine=decoder_cosine(sae.W_dec),
        groups=tuple(_groups(cells)),
        positions=() if squares is None else _position_fvu(squares),
    )


def density_histogram(density: Tensor) -> tuple[int, ...]:
    """Latents by firing density: below 1e-7, then one number per decade, the last up to and with 1."""
    edges = torch.tensor(DENSITY_EDGES[:-1], dtype=density.dtype)
    return tuple(torch.bincount(torch.bucketize(density, edges, right=True), minlength=8).tolist())


def decoder_cosine(W_dec: Tensor) -> dict[str, float]:
    """Largest cosine of each of the unit rows (n, d) with another row: mean, median, 99th percentile."""
    unit = torch.nn.functional.normalize(W_dec.float(), dim=1)
    if len(unit) < 2:
        return {"mean": 0.0, "median": 0.0, "p99": 0.0}
    largest = []
    for start in range(0, len(unit), ROWS):
        cosines = unit[start : start + ROWS] @ unit.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -2
        largest.append(cosines.amax(1))
    found = torch.cat(largest)
    p = torch.quantile(found, torch.tensor([0.5, 0.99], device=found.device))
    return {"mean": float(found.mean()), "median": float(p[0]), "p99": float(p[1])}


def _source(sae: SAE, rows: RowsLike) -> RowSource:
    sources = row_sources(rows)
    source = sources.get(sae.block) or (next(iter(sources.values())) if len(sources) == 1 else None)
    if source is None:
        raise UnboxError(f"no rows of '{sae.block}'; there are rows of {', '.join(sources)}")
    if source.width != sae.width:
        raise UnboxError(f"the rows have width {source.width}; {sae.name or 'the SAE'} encodes {sae.width}")
    if not len(source):
        raise UnboxError("there are no rows to evaluate on")
    return source


def _images(source: RowSource, limit: int | None) -> Iterator[np.ndarray]:
    """(step, branch, y, x, d) of each image, or (N, d) of rows without images."""
    if not isinstance(source, ImageRows):
        rows = source.sample(len(source) if limit is None else min(limit, len(source)), 0)
        for start in range(0, len(rows), ROWS):
            yield np.array(rows[start : start + ROWS], np.float32)
        return
    total = len(source.samples)
    wanted = total if limit is None else max(1, limit // max(1, len(source) // total))
    for i in np.unique(np.linspace(0, total - 1, min(total, wanted)).round().astype(int)):
        yield source.read(int(i))


def _errors(sae: SAE, x: Tensor, latents: LatentSums) -> tuple[Tensor, Tensor]:
    errors, counts = [], []
    for part in x.split(ROWS):
        codes = sae.encode(part)
        latents.add(codes)
        errors.append(part - sae.decode(codes).cpu())
        counts.append(codes.l0.cpu())
    return torch.cat(errors), torch.cat(counts)


def _cells(source: RowSource, shape: tuple[int, ...]) -> Iterator[tuple[Cell, slice]]:
    """The rows of each step and branch of an image, as slices of its flat rows."""
    if len(shape) != 5 or not isinstance(source, ImageRows):
        yield (None, None), slice(None)
        return
    size = shape[2] * shape[3]
    for i, (step, branch) in enumerate(product(source.steps, source.branches)):
        yield (int(step), str(branch)), slice(i * size, (i + 1) * size)


def _groups(cells: Mapping[Cell, Sums]) -> Iterator[GroupFigures]:
    """Each step, each branch, and each step of each branch, where there are several."""
    if None in {step for step, _ in cells}:
        return
    steps = sorted({step for step, _ in cells if step is not None})
    branches = list(dict.fromkeys(branch for _, branch in cells))
    wanted: list[Cell] = [(step, None) for step in steps]
    if len(branches) > 1:
        wanted += [(None, branch) for branch in branches] + list(product(steps, branches))
    for step, branch in wanted:
        s = reduce(add, (c for k, c in cells.items() if step in (None, k[0]) and branch in (None, k[1])))
        yield GroupFigures(step, branch, s.rows, s.fvu, 1 - s.fvu, s.l0)


def _interval(images: list[Sums]) -> tuple[float, float]:
    """Percentile bootstrap of the FVU, drawing whole images."""
    units = np.array([[float(s.e2.sum()), float(s.x2.sum()), s.rows, *s.x.tolist()] for s in images])

    def fvu(sums: np.ndarray) -> np.ndarray:
        error, square, rows, x = sums[..., 0], sums[..., 1], sums[..., 2], sums[..., 3:]
        return error / np.maximum(square - np.square(x).sum(-1) / rows, 1e-300)

    return bootstrap_of_sums(units, fvu, draws=BOOTSTRAPS)


def _add_positions(
    sums: Tensor | None, source: RowSource, i: int, error: Tensor, x: Tensor, shape: tuple[int, ...]
) -> Tensor | None:
    """(2 + d + 1, y, x): squared error, squared x, sum of x by channel and rows at each position so far."""
    size = shape[2] * shape[3]
    if hasattr(source, "positions") and not np.array_equal(source.positions(i), np.arange(size)):
        return None  # the store kept only some positions of each image
    grid = (-1, size, shape[4])
    e, v = error.double().reshape(grid), x.double().reshape(grid)
    squares = torch.stack([e.square().sum((0, 2)), v.square().sum((0, 2))])
    found = torch.cat([squares, v.sum(0).T, torch.full((1, size), len(e))]).reshape(-1, shape[2], shape[3])
    return found if sums is None else sums + found


def _position_fvu(sums: Tensor) -> tuple[tuple[float, ...], ...]:
    variance = sums[1] - sums[2:-1].square().sum(0) / sums[-1]
    return tuple(tuple(row) for row in (sums[0] / variance.clamp_min(1e-300)).tolist())
