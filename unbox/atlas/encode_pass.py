"""The pass over a store: codes of a few images at a time, counted; saved now and then, resumed."""

import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from activation_store import Rows, digest, publish_file
from activation_store.files import canonical
from unbox.atlas.atlas_plan import AtlasPlan
from unbox.atlas.feature_statistics import Entries, Examples, Grid, Tally, pairs_of
from unbox.atlas.top_images import Best
from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.sae.latent_statistics import latent_stats
from unbox.sae.model import SAE, Stats
from unbox.sae.sae_folder import threshold_value
from unbox.stopping import stop_asked, unit

Value = TypeVar("Value")

#: Vectors encoded at a time, and seconds between two savings of a pass.
ROWS, SAVE_EVERY = 16_384, 60.0


@dataclass(frozen=True)
class Gathered:
    """What the pass found of one SAE."""

    grid: Grid
    tally: Tally
    examples: Examples
    scale: np.ndarray
    """(n,) float32: the activation that a histogram and the intervals end at."""
    probes: np.ndarray
    """(probes,) images, ascending."""
    place_rows: int
    """Places that were sampled, about `plan.places`, at most 64 an image: rows of the sparse matrix."""


def gather(
    sae: SAE,
    rows: Rows,
    plan: AtlasPlan,
    saved: Path,
    progress: Callable[[int], bool | None] | None = None,
    save_every: float = SAVE_EVERY,
) -> Gathered:
    """Count an SAE's codes over all images of `rows` (a store's rows of its block).

    The state is saved at `saved` about every `save_every` seconds and when a signal stops it; called again it
    goes on from there, and the result is the same. `progress(images)` takes the number of images done.
    """
    grid = grid_of(rows)
    images = rows.shape[0]
    scale = activation_scale(sae, rows)
    probes = probe_images(images, plan)
    per_image = min(64, -(-plan.places // max(images, 1)))
    key = pass_key(sae, rows, plan)
    tally, examples = restore(saved, key) or (
        Tally.empty(sae.latents, grid, plan, len(probes)),
        Examples.empty(sae.latents, grid.cells, plan),
    )
    saved_at = time.monotonic()
    if progress:
        progress(int(tally.images))
    size = max(1, ROWS // (grid.steps * grid.branches * grid.kept))
    counted = Counting(tally, examples, scale, probes, per_image, plan, grid)
    with unit(), ThreadPoolExecutor(2) as threads:
        for part, (entries, active) in ahead(
            threads, lambda part: encode(sae, rows, part, grid), batches(images, int(tally.images), size)
        ):
            counted.add(threads, part, entries, active)
            if progress:
                progress(len(part))
            stop = stop_asked()
            if stop is not None or time.monotonic() - saved_at > save_every:
                save(saved, key, tally, examples)
                saved_at = time.monotonic()
            if stop is not None:
                raise stop
    best = Examples(*(getattr(examples, kind.name).sorted() for kind in fields(examples)))
    return Gathered(grid, tally, best, scale, probes, images * per_image)


@dataclass(frozen=True)
class Counting:
    """What entries are counted into; all of it belongs to the same images after each `add`."""

    tally: Tally
    examples: Examples
    scale: np.ndarray
    probes: np.ndarray
    per_image: int
    plan: AtlasPlan
    grid: Grid

    def add(self, threads: ThreadPoolExecutor, part: range, entries: Entries, active: np.ndarray) -> None:
        """Count some images: the tally's numbers here, the examples in another thread beside it."""
        tally = self.tally
        pairs = pairs_of(entries, tally.latents)
        at = np.minimum(np.searchsorted(self.probes, pairs.image), max(len(self.probes) - 1, 0))
        is_probe = np.isin(pairs.image, self.probes)
        offered = threads.submit(
            self.examples.offer, entries, pairs, self.scale, is_probe, self.plan
        )  # fmt: skip
        tally.count(entries, self.scale)
        tally.count_lives(entries, pairs)
        tally.probe_peak[pairs.feature[is_probe], at[is_probe]] = pairs.peak[is_probe]
        tally.places.add(*sampled_places(active, part, self.per_image, self.plan, self.grid))
        offered.result()
        tally.images += len(part)


def ahead(
    threads: ThreadPoolExecutor, work: Callable[[range], Value], parts: Iterable[range]
) -> Iterator[tuple[range, Value]]:
    """The work of each part, in order; that of the next is done in a thread meanwhile."""
    waiting: tuple[range, Future[Value]] | None = None
    for part in parts:
        new = part, threads.submit(work, part)
        if waiting is not None:
            yield waiting[0], waiting[1].result()
        waiting = new
    if waiting is not None:
        yield waiting[0], waiting[1].result()


def grid_of(rows: Rows) -> Grid:
    """The axes of a store's rows."""
    _, steps, branches, y, x, _ = rows.shape
    height, width, _ = rows.shards.schema.blocks[rows.block]
    return Grid(steps, branches, height, width, y * x)


def activation_scale(sae: SAE, rows: Rows) -> np.ndarray:
    """(n,) the largest activation in training; of latents that never fired there, the median of the others'.

    Known before the pass, so that histograms need no second one.
    """
    return scale_of(sae.stats or latent_stats(sae, [torch.from_numpy(rows.sample(ROWS)).to(sae.device)]))


def scale_of(stats: Stats) -> np.ndarray:
    """`activation_scale` of known statistics."""
    largest = stats.max.numpy().astype(np.float32)
    fired = largest > 0
    return np.where(fired, largest, np.median(largest[fired]) if fired.any() else 1.0).astype(np.float32)


def probe_images(images: int, plan: AtlasPlan) -> np.ndarray:
    """Images kept from the words: at most a quarter of all."""
    count = min(plan.probes, images // 4)
    chosen = np.random.default_rng([plan.seed, 1]).choice(images, count, replace=False)
    return np.sort(chosen)


def batches(images: int, start: int, size: int) -> Iterator[range]:
    """Ranges of images from `start` on."""
    return (range(first, min(first + size, images)) for first in range(start, images, size))


@torch.no_grad()
def encode(sae: SAE, rows: Rows, part: range, grid: Grid) -> tuple[Entries, np.ndarray]:
    """Entries of some images, and the active latents of each place, (images, steps, branches, places, k) with
    -1 where a place of the code is unused."""
    codes = sae.encode(torch.from_numpy(rows.read_images(part)).to(sae.device))
    values = codes.values.float().cpu().numpy()
    latents = codes.indices.cpu().numpy()
    shape = (*values.shape[:3], grid.kept, values.shape[-1])
    values, latents = values.reshape(shape), latents.reshape(shape)
    where = np.nonzero(values > 0)
    image, step, branch, place, _ = where
    position = rows.positions_of(part)[image, place]
    entries = Entries(
        latents[where], values[where], image + part.start, step, branch, place, grid.cell(position)
    )
    return entries, np.where(values > 0, latents, -1)


def sampled_places(
    active: np.ndarray, part: range, per_image: int, plan: AtlasPlan, grid: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and features of the places sampled in some images.

    A place is a fraction of the image, so that blocks with other grids are looked at in the same places.
    """
    rows, features = [], []
    for offset, image in enumerate(part):
        u = np.random.default_rng([plan.seed, 2, image]).random((per_image, 4))
        step, branch = (u[:, 0] * grid.steps).astype(int), (u[:, 1] * grid.branches).astype(int)
        if grid.kept == grid.height * grid.width:
            place = (u[:, 2] * grid.height).astype(int) * grid.width + (u[:, 3] * grid.width).astype(int)
        else:
            place = (u[:, 2] * grid.kept).astype(int)
        found = active[offset, step, branch, place]
        row, column = np.nonzero(found >= 0)
        rows.append(image * per_image + row)
        features.append(found[row, column])
    return np.concatenate(rows), np.concatenate(features)


def pass_key(sae: SAE, rows: Rows, plan: AtlasPlan) -> str:
    """What a pass depends on: SAE, rows, sizes."""
    return digest(canonical([sae.identity, rows.digest, plan.to_json()]))


def former_pass_key(sae: SAE, rows: str, plan: Mapping[str, JSON]) -> str:
    """What versions before took a pass to depend on: of the SAE weights, k and threshold. `rows`: digest."""
    weights = [digest(weight) for weight in sae.weight_bytes()]
    return digest(canonical([weights, sae.k, threshold_value(sae.threshold), rows, plan]))


def save(path: Path, key: str, tally: Tally, examples: Examples) -> None:
    """Write the state of a pass, whole or not at all."""
    arrays = {f"tally/{name}": array for name, array in tally.arrays().items()} | examples.arrays()
    with publish_file(path) as temporary, open(temporary, "xb") as file:
        np.savez(file, **{"key": np.frombuffer(key.encode(), np.uint8), **arrays})  # type: ignore[arg-type]


def restore(path: Path, key: str) -> tuple[Tally, Examples] | None:
    """The state of the same pass, or None where there is none."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            if file["key"].tobytes().decode() != key:
                return None
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UnboxError(f"{path} is damaged ({error}); remove it and build the atlas again") from error

    def of(kind: str) -> dict[str, np.ndarray]:
        return {name[len(kind) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{kind}/")}

    return Tally.of(of("tally")), Examples(*(Best(**of(kind.name)) for kind in fields(Examples)))
