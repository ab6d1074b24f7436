"""Rows of several sources side by side, each divided by its own deviation: what a crosscoder learns from.

A source is a block, a block at a step, or a block of another model's store: rows that belong together, image
by image and place by place. Sources of larger numbers would otherwise have most of the loss.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, Unpack

import numpy as np

from activation_store import AlignedRows, Rows, Store
from activation_store.batches import BatchOptions, Cursor
from activation_store.files import canonical, digest
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.sae.row_source import ArrayRows, RowBatches, RowSource

#: Rows that the sources' deviations are measured on, and the seed that they are drawn with.
SAMPLE, SEED = 32_768, 0
#: How a source of stores is written.
SOURCE = re.compile(r"(?P<block>[^:@]+)(:(?P<step>\d{1,9}))?(@(?P<store>\d{1,4}))?")


class SideBySide:
    """Rows of sources side by side, in memory; `ImagesSideBySide`: those of stores."""

    def __init__(
        self, rows: ArrayRows | AlignedRows, widths: Mapping[str, int], factors: Mapping[str, float]
    ) -> None:
        self.rows, self.widths, self.factors = rows, dict(widths), dict(factors)
        self._scale = np.repeat([factors[n] for n in widths], list(widths.values())).astype(np.float32)

    @property
    def block(self) -> str:
        """The sources' names, joined by `-`."""
        return "-".join(self.widths)

    @property
    def width(self) -> int:
        """Numbers of a row of all sources."""
        return sum(self.widths.values())

    @property
    def units(self) -> int:
        """Number of rows, or of images, that `cut` counts in."""
        return len(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def cut(self, some: np.ndarray) -> Self:
        """Some of these rows, or of these images, by their numbers from 0."""
        rows = (
            ArrayRows(self.rows.array[some])
            if isinstance(self.rows, ArrayRows)
            else self.rows.filter(samples=some.tolist())
        )
        return type(self)(rows, self.widths, self.factors)

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """(min(n, rows), width), drawn without replacement."""
        return self.rows.sample(n, seed) * self._scale

    def batches(self, batch_size: int, **options: Unpack[BatchOptions]) -> "ScaledBatches":
        """As those of the rows."""
        return ScaledBatches(self.rows.batches(batch_size, **options), self._scale)

    def to_json(self) -> dict[str, JSON]:
        """Names, widths and factors of the sources: what a crosscoder is told of its rows."""
        return {
            "names": list(self.widths),
            "widths": list(self.widths.values()),
            "factors": list(self.factors.values()),
        }


class ImagesSideBySide(SideBySide):
    """Rows of images side by side."""

    rows: AlignedRows

    @property
    def units(self) -> int:
        return len(self.rows.samples)

    @property
    def samples(self) -> Sequence[int]:
        """Numbers of the images."""
        return self.rows.samples

    @property
    def steps(self) -> Sequence[int]:
        """Steps of the first source."""
        return self.rows.steps

    @property
    def branches(self) -> Sequence[str]:
        """Branches of the rows."""
        return self.rows.branches

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the first source's store records of its run."""
        return self.rows.provenance

    @property
    def digest(self) -> str:
        """SHA-256 of what these rows are."""
        return digest(canonical([self.rows.digest, self.to_json()]))

    def filter(
        self, *, steps: Sequence[int] | None = None, branches: Sequence[str] | None = None
    ) -> "ImagesSideBySide":
        """The rows of some steps and branches of every source."""
        return ImagesSideBySide(self.rows.filter(steps=steps, branches=branches), self.widths, self.factors)

    def read(self, i: int) -> np.ndarray:
        """Rows of the i-th image, (step, branch, y, x, width)."""
        return self.rows.read(i) * self._scale


class ScaledBatches(Iterator[np.ndarray]):
    """Batches of rows, multiplied by a number for each channel."""

    def __init__(self, batches: RowBatches, scale: np.ndarray) -> None:
        self._batches, self._scale = batches, scale

    @property
    def cursor(self) -> Cursor:
        """The place after the last batch."""
        return self._batches.cursor

    def __next__(self) -> np.ndarray:
        return next(self._batches) * self._scale

    def close(self) -> None:
        """Let go of what the batches hold."""
        self._batches.close()


def side_by_side(sources: Mapping[str, RowSource | np.ndarray]) -> SideBySide:
    """Rows of named sources side by side: all blocks of stores (`activation_store.Rows`), of the same images
    and places, or all arrays (rows, width) of equal length. Steps may be others, as many in each.

    Each source is divided by its root mean square deviation, on up to 32,768 rows. Raises UnboxError for
    fewer than two sources, and for one that does not vary.
    """
    if len(sources) < 2:
        raise UnboxError("rows side by side are of two sources at least")
    widths: dict[str, int]
    if all(isinstance(rows, Rows) for rows in sources.values()):
        parts = tuple(rows for rows in sources.values() if isinstance(rows, Rows))
        aligned = AlignedRows(parts, other_steps=True)
        widths = {name: rows.width for name, rows in zip(sources, parts, strict=True)}
        sample = aligned.sample(SAMPLE, SEED)
        return ImagesSideBySide(aligned, widths, _factors(sample, widths))
    arrays = {
        name: rows if isinstance(rows, ArrayRows) else ArrayRows(_array(name, rows))
        for name, rows in sources.items()
    }
    if len({len(rows) for rows in arrays.values()}) > 1:
        told = ", ".join(f"{name} {len(rows):,}" for name, rows in arrays.items())
        raise UnboxError(f"rows side by side belong together one by one; there are of {told}")
    joined = ArrayRows(np.concatenate([rows.array for rows in arrays.values()], axis=1))
    widths = {name: rows.width for name, rows in arrays.items()}
    return SideBySide(joined, widths, _factors(joined.sample(SAMPLE, SEED), widths))


def named_sources(asked: Sequence[str], stores: Sequence[Store]) -> dict[str, Rows]:
    """Rows by the name of each source: `BLOCK`, `BLOCK:STEP` for one step, `BLOCK@N` of the N-th store.

    Stores count from 0.
    A name is the source as written, with `.step3` and `.store1`. Raises UnboxError for others.
    """
    found: dict[str, Rows] = {}
    for source in asked:
        match = SOURCE.fullmatch(source)
        number = int(match["store"] or 0) if match else 0
        if match is None or number >= len(stores):
            raise UnboxError(
                f"'{source}' is no source: it is BLOCK, BLOCK:STEP, or BLOCK@N of store N; there are stores "
                f"0 to {len(stores) - 1}"
            )
        rows = stores[number][match["block"]]
        name = match["block"]
        if match["step"] is not None:
            rows, name = rows.filter(steps=int(match["step"])), f"{name}.step{int(match['step'])}"
        name += f".store{number}" if match["store"] is not None else ""
        if name in found:
            raise UnboxError(f"'{source}' is asked for twice; a crosscoder's sources differ")
        found[name] = rows
    return found


def _array(name: str, rows: RowSource | np.ndarray) -> np.ndarray:
    if not isinstance(rows, np.ndarray):
        raise UnboxError(f"{name}: rows side by side are all of stores, or all arrays")
    return rows


def _factors(sample: np.ndarray, widths: Mapping[str, int]) -> dict[str, float]:
    parts = np.split(sample.astype(np.float64), np.cumsum(list(widths.values()))[:-1], axis=1)
    deviations = {
        n: float(np.sqrt(np.square(x - x.mean(0)).sum(1).mean())) for n, x in zip(widths, parts, strict=True)
    }
    if constant := [name for name, deviation in deviations.items() if not deviation > 0]:
        raise UnboxError(f"the rows of {constant[0]} are all the same vector: there is nothing to explain")
    return {name: 1 / deviation for name, deviation in deviations.items()}
