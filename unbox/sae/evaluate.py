"""How well an SAE explains rows: by step, branch and position of the images, with intervals."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from math import prod
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from unbox.errors import UnboxError
from unbox.memory_limit import require
from unbox.sae.distributed import ProcessGroup
from unbox.sae.evaluation_sums import (
    EXTREME,
    NORM_ROWS,
    Cell,
    EvaluationSums,
    cells_of,
    evaluation_bytes,
    image_groups,
    parts_of,
)
from unbox.sae.latent_statistics import ROWS
from unbox.sae.model import SAE
from unbox.sae.row_source import ImageRows, RowsLike, RowSource, filtered, row_sources
from unbox.validation import Count, Instance, Name, Positive, Some, StepIndex, checked

#: A latent active in more than this part of the rows is dense.
DENSE = 0.1
#: Edges of the histogram of firing densities: powers of ten.
DENSITY_EDGES = tuple(10.0**e for e in range(-7, 1))


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
    extreme_rows: int = 0
    """Rows whose norm is over ten times the median norm, or `max_norm` times: those were left out."""
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


def evaluate(
    sae: SAE,
    rows: RowsLike,
    *,
    limit: int | None = None,
    steps: Sequence[int] | None = None,
    branches: Sequence[str] | None = None,
    max_norm: float | None = None,
    processes: ProcessGroup | None = None,
) -> Figures:
    """Figures of an SAE on rows: a block of a store (then by step, branch and position too), or an array.

    `limit` bounds the number of rows, by taking images (or rows) evenly; `steps` and `branches` choose among
    those of a store. Rows whose norm is over `max_norm` times the median norm are left out; None: none are.
    Of several `processes`, each takes its share of the images, and all are given the figures of all. Memory
    does not grow with the rows: `evaluation_bytes`.

    Raises UnboxError for rows of another width, or none, and for a step or branch that is not there.
    """
    limit = None if limit is None else checked(Count, "limit", limit, "evaluate")
    leave_out = None if max_norm is None else checked(Positive, "max_norm", max_norm, "evaluate")
    steps = checked(Some[StepIndex] | None, "steps", steps, "evaluate")  # type: ignore[arg-type]
    branches = checked(Some[Name] | None, "branches", branches, "evaluate")  # type: ignore[arg-type]
    rule = Annotated[ProcessGroup | None, Instance()]
    given: ProcessGroup | None = checked(rule, "processes", processes, "evaluate")  # type: ignore[arg-type]
    team = ProcessGroup() if given is None else given
    source = filtered(_source(sae, rows), steps, branches)
    norms = np.linalg.norm(np.asarray(source.sample(NORM_ROWS, 0), np.float32), axis=1)
    far = float(np.median(norms)) * (EXTREME if leave_out is None else leave_out)
    shape = (1, 1, 1, ROWS) if not isinstance(source, ImageRows) else np.shape(source.read(0))[:4]
    grid = shape[2:] if isinstance(source, ImageRows) and _whole_grid(source, prod(shape[2:])) else (0, 0)
    cells = cells_of(source)
    size = evaluation_bytes(sae.width, sae.latents, len(cells), prod(grid), prod(shape))
    require(size, f"evaluating {sae.name or 'an SAE'}")
    sums = EvaluationSums(sae, cells, prod(grid), far, leave_out is not None)
    if isinstance(source, ImageRows):
        numbers = np.asarray(source.samples)
        own = np.array_split(_evenly(len(numbers), limit, prod(shape)), team.world)[team.rank]
        for places, images in image_groups(source, own, prod(shape)):
            sums.add(images.reshape(-1, prod(shape[2:]), sae.width), numbers[places].tolist())
    else:
        for part in parts_of(source, limit, team):
            sums.add(part[None])
    sums.together(team)
    return _figures(sae, sums, grid)


def _figures(sae: SAE, sums: EvaluationSums, grid: tuple[int, ...]) -> Figures:
    whole, latents = sums.of(), sums.latents
    density = (latents.active / max(1, latents.rows)).cpu()
    return Figures(
        rows=int(whole.rows),
        extreme_rows=int(sums.counts[:, 2].sum()),
        fvu=whole.fvu,
        fvu_interval=sums.interval(),
        explained_variance=1 - whole.fvu,
        explained_variance_per_channel=whole.per_channel,
        l0=whole.l0,
        dead_fraction=float((density == 0).double().mean()),
        dense_fraction=float((density > DENSE).double().mean()),
        density_histogram=density_histogram(density),
        decoder_cosine=decoder_cosine(sae.W_dec),
        groups=tuple(_groups(sums)),
        positions=sums.position_fvu(*grid) if prod(grid) else (),
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


def _evenly(total: int, limit: int | None, rows: int) -> np.ndarray:
    """Places of images, evenly over `total`, that have `limit` rows together, at least one image."""
    wanted = total if limit is None else max(1, limit // max(1, rows))
    return np.unique(np.linspace(0, total - 1, min(total, wanted)).round().astype(np.int64))


def _whole_grid(source: ImageRows, size: int) -> bool:
    """False where the store kept only some positions of each image."""
    return not hasattr(source, "positions") or np.array_equal(source.positions(0), np.arange(size))


def _groups(sums: EvaluationSums) -> Iterator[GroupFigures]:
    """Each step, each branch, and each step of each branch, where there are several."""
    steps = sorted({step for step, _ in sums.cells if step is not None})
    branches = list(dict.fromkeys(branch for _, branch in sums.cells))
    wanted: list[Cell] = [(step, None) for step in steps]
    if len(branches) > 1:
        wanted += [(None, branch) for branch in branches] + list(product(steps, branches))
    for step, branch in wanted:
        s = sums.of(step, branch)
        yield GroupFigures(step, branch, int(s.rows), s.fvu, 1 - s.fvu, s.l0)
