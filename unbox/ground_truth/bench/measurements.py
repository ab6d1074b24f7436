"""All that `bench shapes` measures, each part by itself, so that several processes can share the parts."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from unbox.ground_truth.bench.bench_inputs import BenchInputs, BlockRows, from_store
from unbox.ground_truth.bench.bench_rows import BenchResults, BenchRow
from unbox.ground_truth.bench.bench_settings import BenchSettings
from unbox.ground_truth.bench.causation import Shifts, causation, causation_keys
from unbox.ground_truth.bench.factor_match import Candidates, match_candidates, match_score
from unbox.ground_truth.bench.mean_maps import MAPPED
from unbox.ground_truth.bench.methods import DICTIONARIES
from unbox.ground_truth.bench.probing import probe
from unbox.ground_truth.bench.scene_pairs import KINDS
from unbox.ground_truth.bench.transport_trials import pair_keys, transport_trials
from unbox.ground_truth.effects import Cases
from unbox.ground_truth.factor_scores import Value
from unbox.json_types import JSON
from unbox.models import Model
from unbox.processes import in_processes
from unbox.result_cache import ResultCache
from unbox.sae import SAE

#: A part: a block's dictionaries probed, a value's edits, or a kind of edit between two captions.
Part = tuple[Literal["block"], str] | tuple[Literal["value"], Value] | tuple[Literal["pairs"], str]
#: What loads the model in the process of a number.
LoadModel = Callable[[int], Model]


@dataclass(frozen=True, eq=False)
class Measurements:
    """Measures what is asked for and is not yet kept."""

    bench: BenchInputs
    probing: ResultCache
    """Results that depend on the captions alone."""

    @cached_property
    def shifts(self) -> Shifts:
        """Block -> how far each value moves its update."""
        return self.bench.shifts()

    @cached_property
    def trials(self) -> Cases:
        """Unedited images on which edits are chosen: enough that every value is missing in as many as are
        asked for."""
        return self.bench.subject.cases(6 * self.bench.settings.trial_cases, self.bench.settings.seed + 201)

    @cached_property
    def tests(self) -> Cases:
        """Others, on which they are measured."""
        return self.bench.subject.cases(6 * self.bench.settings.test_cases, self.bench.settings.seed + 202)

    def all(self) -> BenchResults:
        """All parts."""
        meaning, mcc = self.meaning(tuple(self.bench.saes)), self.matched(tuple(self.bench.saes))
        added, removed = causation(self.bench, self.shifts, self.trials, self.tests)
        found: BenchResults = {"meaning": meaning, "reliable": _reliable(self.tests), "mcc": mcc}
        return found | {"causation": added, "removal": removed, **transport_trials(self.bench)}

    def part(self, part: Part) -> None:
        """Measure a part, and keep it."""
        if part[0] == "block":
            self.meaning((part[1],))
            self.matched((part[1],))
        elif part[0] == "value":
            bench = replace(self.bench, settings=replace(self.bench.settings, values=(part[1],)))
            causation(bench, self.shifts, self.trials, self.tests)
        else:
            transport_trials(self.bench, (part[1],))

    def meaning(self, blocks: Sequence[str]) -> list[BenchRow]:
        """The telling features of each block's dictionaries."""
        rows: list[BenchRow] = []
        for block in self.bench.bar(blocks, "meaning"):
            updates = BlockRows(self.bench.store[block])
            for name, dictionary in self.bench.dictionaries[block].items():
                key: JSON = ["meaning", block, name]
                found = self.probing.get(key, probe, dictionary, updates, self.bench.scenes)
                rows += [{"block": block, "method": name, **row} for row in found]
        return rows

    def matched(self, blocks: Sequence[str]) -> dict[str, float]:
        """MCC of each dictionary, the blocks together."""
        found: dict[str, list[list[Candidates]]] = {}
        for block in self.bench.bar(blocks, "matching"):
            updates = BlockRows(self.bench.store[block])
            for name, dictionary in self.bench.dictionaries[block].items():
                key: JSON = ["matching", block, name]
                of_block = self.probing.get(key, match_candidates, dictionary, updates, self.bench.scenes)
                found.setdefault(name, []).append(of_block)
        return {name: match_score(of_blocks) for name, of_blocks in found.items()}


@dataclass(frozen=True)
class MeasuringProcess:
    """What a process needs in order to measure parts; called with its number in it."""

    load: LoadModel
    saes: bytes
    """Pickled, whole: tensors would be shared with whoever starts the process."""
    settings: BenchSettings
    out: Path
    results: ResultCache
    probing: ResultCache
    threads: int

    def __call__(self, number: int) -> Callable[[Part], None]:
        torch.set_num_threads(self.threads)
        saes: dict[str, SAE] = pickle.loads(self.saes)
        model = self.load(number)
        bench = from_store(model, saes, self.settings, self.out, self.results, False)
        return Measurements(bench, self.probing).part


def measure_in_processes(
    load: LoadModel,
    processes: int,
    saes: Mapping[str, SAE],
    settings: BenchSettings,
    out: Path,
    results: ResultCache,
    probing: ResultCache,
    progress: bool,
) -> None:
    """Measure what is missing in several processes, which share the cores; the captions are collected."""
    parts = missing(tuple(saes), settings, results, probing)
    threads = max(1, torch.get_num_threads() // processes)
    start = MeasuringProcess(load, pickle.dumps(dict(saes)), settings, out, results, probing, threads)
    with tqdm(total=len(parts), desc="in processes", disable=not progress) as bar:
        for _ in in_processes(start, parts, processes):
            bar.update()


def missing(
    blocks: Sequence[str], settings: BenchSettings, results: ResultCache, probing: ResultCache
) -> list[Part]:
    """Parts of which a result is not kept yet, the longest first."""
    names = [*DICTIONARIES, *(["factors"] if "factors" in settings.methods else [])]
    keys: dict[Part, list[JSON]] = {}
    keys |= {("value", v): causation_keys(settings, v) for v in settings.values if v in MAPPED}
    keys |= {("pairs", kind): pair_keys(kind) for kind in KINDS}
    found = [part for part, some in keys.items() if not all(map(results.has, some))]
    probed = {b: [[what, b, name] for what in ("meaning", "matching") for name in names] for b in blocks}
    return found + [("block", b) for b, some in probed.items() if not all(map(probing.has, some))]


def _reliable(cases: Cases) -> dict[str, float]:
    """Share of unedited images that show what their caption asks for, by value."""
    asked: dict[str, list[bool]] = {}
    for scene, reading in zip(cases.scenes, cases.readings, strict=True):
        for factor, value in scene.factors().items():
            asked.setdefault(f"{factor}={value}", []).append(reading[factor] == value)
    return {name: float(np.mean(shown)) for name, shown in sorted(asked.items())}
