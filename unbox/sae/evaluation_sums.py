"""The sums that an evaluation's figures are made of: of a size that does not grow with the rows.

Rows come in segments: those of one image in one step and branch, or a part of rows without images. A slice
of segments is encoded, compared with its reconstruction and summed where the SAE is; sums are float64, and
add over processes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from unbox.sae.distributed import ProcessGroup
from unbox.sae.initialization import check_finite
from unbox.sae.latent_statistics import ROWS, LatentSums
from unbox.sae.model import SAE
from unbox.sae.row_source import ImageRows, RowSource
from unbox.statistics import StreamingBootstrap

#: Step and branch of rows; None: of all.
Cell = tuple[int | None, str | None]
#: Rows that are read at a time; of larger images one.
ROWS_READ = 16_384
#: Resamples of the interval.
BOOTSTRAPS = 1000
#: Rows that the median norm is taken over, and how many times that a row's norm is to be extreme.
NORM_ROWS, EXTREME = 8192, 10.0


@dataclass
class Sums:
    """Sums over rows, per channel where that is needed; they add."""

    rows: float
    x: Tensor
    x2: Tensor
    e: Tensor
    e2: Tensor
    active: float

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def variance(self) -> Tensor:
        """(d,) of the rows, times their number."""
        return (self.x2 - self.x.square() / max(1, self.rows)).clamp_min(0)

    @property
    def fvu(self) -> float:
        """NaN is never given: rows without variance have FVU 0 if they are explained, else 1."""
        total, error = float(self.variance.sum()), float(self.e2.sum())
        return error / total if total > 0 else float(error > 0)

    @property
    def per_channel(self) -> float:
        """Mean over the channels that vary of 1 - var(error) / var(x)."""
        error = (self.e2 - self.e.square() / max(1, self.rows)).clamp_min(0)
        varies = self.variance > 0
        return float((1 - error[varies] / self.variance[varies]).mean()) if bool(varies.any()) else 0.0

    @property
    def l0(self) -> float:
        """Mean number of active latents."""
        return self.active / max(1, self.rows)


class EvaluationSums:
    """Sums over the rows of one evaluation."""

    def __init__(
        self, sae: SAE, cells: Sequence[Cell], positions: int, limit: float, leave_out: bool
    ) -> None:
        """`positions` of an image's grid, 0 where they are not asked for; rows of a norm over `limit` are
        counted, and with `leave_out` are not in the other sums."""
        # Sums are float64, which Apple's GPUs have not.
        self.device = torch.device("cpu") if sae.device.type == "mps" else sae.device
        self.sae, self.cells, self.limit, self.leave_out = sae, cells, limit, leave_out
        self.latents = LatentSums.zero(sae.latents, self.device)
        self.by_cell, self.counts, self.by_position = (
            torch.zeros(shape, dtype=torch.float64, device=self.device)
            for shape in ((len(cells), 4, sae.width), (len(cells), 3), (sae.width + 3, positions))
        )
        self.images = StreamingBootstrap(sae.width + 3, BOOTSTRAPS)

    @torch.no_grad()
    def add(self, segments: np.ndarray, images: Sequence[int] | None = None) -> None:
        """Add segments (S, P, d) of rows: of cell 0, 1, ... in turn. `images`: the numbers of the images,
        whose segments follow each other; None: the rows have none."""
        check_finite(torch.from_numpy(segments).reshape(-1, segments.shape[-1]))
        per = max(1, ROWS // segments.shape[1])
        parts = [self._add(segments[at : at + per], at) for at in range(0, len(segments), per)]
        if images is not None:
            of_images = torch.cat(parts).reshape(len(images), -1, parts[0].shape[1]).sum(1)
            self.images.add(images, of_images.cpu().numpy())

    def _add(self, segments: np.ndarray, first: int) -> Tensor:
        """Adds a slice; returns for each segment (S, 3 + d): squared error, squared x, rows, sum of x."""
        x = torch.as_tensor(segments).to(self.sae.device)
        codes = self.sae.encode(x)
        error = x - self.sae.decode(codes).to(x.dtype)
        x, error = x.to(self.device), error.to(self.device)
        extreme = torch.linalg.vector_norm(x, dim=2) > self.limit
        values, rows = codes.values.to(self.device), torch.ones_like(extreme, dtype=torch.float64)
        if self.leave_out:
            rows = (~extreme).double()
            x, error = x * rows.float()[..., None], error * rows.float()[..., None]
            values = values * rows.to(values.dtype)[..., None]
        self.latents.add(values, codes.indices, 0)  # rows are counted below, where no host waits for it
        squares = x.square(), error.square()
        sums = [t.sum(1, dtype=torch.float64) for t in (x, squares[0], error, squares[1])]
        cell = torch.arange(first, first + len(x), device=self.device) % len(self.cells)
        self.by_cell.index_add_(0, cell, torch.stack(sums, 1))
        active = (values > 0).sum((1, 2), dtype=torch.float64)
        counts = torch.stack([rows.sum(1), active, extreme.sum(1, dtype=torch.float64)], 1)
        self.counts.index_add_(0, cell, counts)
        if self.by_position.shape[1]:
            energies = [t.sum((0, 2), dtype=torch.float64)[None] for t in (squares[1], squares[0])]
            self.by_position += torch.cat([*energies, x.sum(0, dtype=torch.float64).T, rows.sum(0)[None]])
        return torch.cat([sums[3].sum(1)[:, None], sums[1].sum(1)[:, None], counts[:, :1], sums[0]], 1)

    def together(self, processes: ProcessGroup) -> None:
        """Replace the sums by those of all processes; every one must call it."""
        bootstrap = torch.from_numpy(self.images.sums)
        self.latents.rows = float(self.counts[:, 0].sum())
        seen = torch.tensor([self.images.units, self.latents.rows], dtype=torch.float64)
        sums = self.latents.active, self.latents.value, self.latents.square
        for tensor in (self.by_cell, self.counts, self.by_position, *sums, bootstrap, seen):
            on_cpu = tensor.cpu()  # by gloo: once an evaluation
            processes.sum_(on_cpu)
            tensor.copy_(on_cpu)
        largest = processes.gather_rows(self.latents.largest.cpu()[None]).amax(0)
        self.latents.largest.copy_(largest)
        self.images.units, self.latents.rows = int(seen[0]), float(seen[1])

    def of(self, step: int | None = None, branch: str | None = None) -> Sums:
        """The sums of a step, of a branch, of both; of all."""
        chosen = [i for i, (s, b) in enumerate(self.cells) if step in (None, s) and branch in (None, b)]
        x, x2, e, e2 = self.by_cell[chosen].sum(0).cpu()
        rows, active, _ = self.counts[chosen].sum(0).tolist()
        return Sums(rows, x, x2, e, e2, active)

    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the FVU by resampling images; None where there are not several."""

        def fvu(sums: np.ndarray) -> np.ndarray:
            error, square, rows, x = sums[..., 0], sums[..., 1], sums[..., 2], sums[..., 3:]
            variance = square - np.square(x).sum(-1) / np.maximum(rows, 1)
            return error / np.maximum(variance, 1e-300)

        return self.images.interval(fvu) if self.images.units > 1 else None

    def position_fvu(self, height: int, width: int) -> tuple[tuple[float, ...], ...]:
        """FVU at each position of the grid."""
        sums = self.by_position.cpu()
        variance = sums[1] - sums[2:-1].square().sum(0) / sums[-1].clamp_min(1)
        found = (sums[0] / variance.clamp_min(1e-300)).reshape(height, width)
        return tuple(tuple(row) for row in found.tolist())


def cells_of(source: RowSource) -> list[Cell]:
    """The steps and branches of rows, in the order of an image's segments."""
    if not isinstance(source, ImageRows):
        return [(None, None)]
    return [(int(step), str(branch)) for step, branch in product(source.steps, source.branches)]


def image_groups(source: ImageRows, images: np.ndarray, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some of the rows' images, `rows` each, by as many as `ROWS_READ` holds: their places among the rows'
    images, and (images, step, branch, y, x, d)."""
    together = max(1, ROWS_READ // rows)
    for start in range(0, len(images), together):
        some = images[start : start + together]
        if (read := getattr(source, "read_images", None)) is not None:
            yield some, read(some)
        else:
            yield some, np.stack([np.asarray(source.read(int(i)), np.float32) for i in some])


def parts_of(source: RowSource, limit: int | None, processes: ProcessGroup) -> Iterator[np.ndarray]:
    """(N, d) of this process's share of rows without images: all, or `limit` drawn at random."""
    if limit is None:
        batches = source.batches(ROWS, epochs=1, rank=processes.rank, world=processes.world)
        yield from (np.asarray(part, np.float32) for part in batches if len(part))
        return
    rows = np.asarray(source.sample(min(limit, len(source)), 0), np.float32)[
        processes.rank :: processes.world
    ]
    yield from (rows[start : start + ROWS] for start in range(0, len(rows), ROWS))


def evaluation_bytes(width: int, latents: int, cells: int, positions: int, image_rows: int) -> int:
    """Bytes that an evaluation holds at most beside the SAE, however many rows there are: its sums, the rows
    of an image or of `ROWS_READ`, six arrays of a slice of them, and how often those images are drawn."""
    sums = cells * (4 * width + 3) + (width + 3) * (positions + BOOTSTRAPS) + 4 * latents
    read, slice_ = max(image_rows, ROWS_READ), max(ROWS, positions)
    drawn = max(1, ROWS_READ // image_rows) * BOOTSTRAPS * 8
    return 8 * sums + 4 * width * (2 * read + 6 * slice_) + drawn
