"""What the benchmark's parts share: the model, its dictionaries, and what values do to updates."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm.auto import tqdm

from activation_store import Store
from unbox.capture import collect
from unbox.edits.channel_guard import WhitenedLimits, whitened_limits
from unbox.edits.terms import TensorDictionary
from unbox.ground_truth.artifacts import unedited_count
from unbox.ground_truth.bench.bench_rows import BenchRow
from unbox.ground_truth.bench.bench_settings import BenchSettings
from unbox.ground_truth.bench.learned_change import LearnedChanges
from unbox.ground_truth.bench.mean_maps import MAPPED, MeanMaps
from unbox.ground_truth.bench.methods import dictionaries, with_statistics
from unbox.ground_truth.effects import CaseSampling, ModelUnderTest
from unbox.ground_truth.factor_scores import UpdateRows, Value, scenes_of
from unbox.models import Model
from unbox.result_cache import ResultCache
from unbox.sae import SAE
from unbox.shapes import Scene, prompts

Item = TypeVar("Item")

#: Recorded shares of rows between which a guard keeps norms and channels.
QUANTILES = (0.001, 0.999)


class BlockRows:
    """A block's rows in memory: they are read a dozen times, and a store opens a shard for each image."""

    def __init__(self, rows: UpdateRows) -> None:
        """All images of a store's rows."""
        self.shape = rows.shape
        self.updates = [rows.read(i) for i in range(rows.shape[0])]

    def read(self, i: int) -> np.ndarray:
        """(step, branch, y, x, d) of an image."""
        return self.updates[i]


@dataclass(frozen=True)
class BenchInputs:
    """The parts that all measurements share."""

    subject: ModelUnderTest
    saes: Mapping[str, SAE]
    settings: BenchSettings
    results: ResultCache
    store: Store
    scenes: Sequence[Scene]
    """Of the store's images."""
    dictionaries: Mapping[str, Mapping[str, TensorDictionary]]
    """Block -> name -> dictionary."""
    mean_maps: Callable[[str], MeanMaps]
    """Mean maps of a block's dictionaries by factor value, made when first asked for."""
    learned: LearnedChanges
    whitened: Callable[[str], WhitenedLimits]
    """Whitened norms that a block's guard keeps to, from sampled rows; made when first asked for."""
    progress: bool = True
    points: dict[bytes, list[BenchRow]] = field(default_factory=dict)
    """What changes that were tried came to, by all that decides it."""

    def bar(self, items: Sequence[Item], what: str) -> Iterator[Item]:
        """Iterate with a progress bar."""
        return iter(tqdm(items, desc=what, disable=not self.progress))

    def shifts(self) -> dict[str, dict[Value, float]]:
        """Block -> how far each value moves its update, in deviations of a position's update."""
        found = {}
        for block, sae in self.bar(list(self.saes.items()), "movers"):
            channels = {"neurons": self.dictionaries[block]["neurons"]}
            maps = MeanMaps(channels, BlockRows(self.store[block]), self.scenes)
            found[block] = {value: maps.moved(value) / float(sae.update_std) for value in MAPPED}
        return found


def collect_captions(
    model: Model, blocks: Sequence[str], settings: BenchSettings, out: Path, progress: bool
) -> None:
    """Collect the updates of held-out captions into `out`/store."""
    sampling: CaseSampling = {"steps": settings.steps, "batch_size": settings.batch_size}
    captions, seed = prompts(settings.captions, settings.seed + 101, "heldout"), settings.seed
    collect(model, captions, out / "store", blocks=tuple(blocks), seed=seed, progress=progress, **sampling)


def prepare(
    model: Model,
    saes: Mapping[str, SAE],
    settings: BenchSettings,
    out: Path,
    results: ResultCache,
    progress: bool,
) -> BenchInputs:
    """Collect the updates of held-out captions into `out`/store, and make each block's dictionaries."""
    collect_captions(model, tuple(saes), settings, out, progress)
    return from_store(model, saes, settings, out, results, progress)


def from_store(
    model: Model,
    saes: Mapping[str, SAE],
    settings: BenchSettings,
    out: Path,
    results: ResultCache,
    progress: bool,
) -> BenchInputs:
    """Each block's dictionaries and mean maps, of the updates that are collected in `out`/store."""
    sampling: CaseSampling = {"steps": settings.steps, "batch_size": settings.batch_size}
    store, seed = Store.open(out / "store"), settings.seed
    scenes = scenes_of(store)
    samples = {block: store[block].sample(4096, seed) for block in saes}
    saes = {block: with_statistics(sae, samples[block]) for block, sae in saes.items()}
    grouped = "factors" in settings.methods
    of_block = {
        b: dictionaries(sae, samples[b], seed, store[b] if grouped else None) for b, sae in saes.items()
    }
    subject = ModelUnderTest.read_by(model, sampling, unedited_count(settings.captions))
    mean_maps = cache(lambda block: MeanMaps(of_block[block], BlockRows(store[block]), scenes))
    learned = LearnedChanges(subject, lambda b: BlockRows(store[b]), scenes, tuple(saes), seed)
    whitened = cache(lambda block: whitened_limits(store[block], (0.0, QUANTILES[1])))
    return BenchInputs(
        subject, saes, settings, results, store, scenes, of_block, mean_maps, learned, whitened, progress
    )
