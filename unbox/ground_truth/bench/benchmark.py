"""`unbox bench shapes`: meaning, causation, ownership and transport, every method on the same images."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from activation_store.files import write_json
from unbox.errors import UnboxError
from unbox.experiments.result_names import MANIFEST, ResultNames
from unbox.former_names import as_written
from unbox.ground_truth.bench.bench_inputs import BenchInputs, BlockRows, prepare
from unbox.ground_truth.bench.bench_rows import BenchResults, BenchRow
from unbox.ground_truth.bench.bench_settings import CHOOSING, FORMER, BenchSettings
from unbox.ground_truth.bench.causation import causation
from unbox.ground_truth.bench.dictionary_record import by_block, scored
from unbox.ground_truth.bench.factor_match import Candidates, match_candidates, match_score
from unbox.ground_truth.bench.probing import probe
from unbox.ground_truth.bench.report import write_bench
from unbox.ground_truth.bench.transport_trials import transport_trials
from unbox.ground_truth.effects import Cases
from unbox.json_types import JSON
from unbox.models import Model
from unbox.result_cache import ResultCache
from unbox.run_folder import run_folder
from unbox.sae import SAE

#: Settings that decide the folder's store (under their former names), and what is probed on it.
STORED = ("steps", "prompts", "seed")


def bench_shapes(
    model: Model,
    saes: Mapping[str, SAE],
    out: str | Path,
    settings: BenchSettings | None = None,
    progress: bool = True,
) -> BenchResults:
    """Run the benchmark (what is missing of it) and write results, tables and a page into `out`.

    Returns {"meaning": rows, "causation": rows, "removal": rows, "ownership": rows, "transport": rows,
    "reliable": {"factor=value": share}}. Raises UnboxError without SAEs.
    """
    settings, out = settings or BenchSettings(), Path(out)
    if not saes:
        raise UnboxError("there are no SAEs to test; train some with `unbox train`")
    saes = by_block(saes)
    chosen: dict[str, JSON] = as_written(asdict(settings), FORMER)
    with run_folder(out, "bench shapes") as folder:
        names = ResultNames.of(folder, model, saes)
        shared = names.context
        folder.claim(*_parts(names, chosen))
        # What is asked does not change an answer: runs over some of the values fill the folder of all.
        results = ResultCache(
            out / "kept", {**shared, "settings": {k: v for k, v in chosen.items() if k not in CHOOSING}}
        )
        probed = {name: chosen[name] for name in STORED}
        write_json(out / MANIFEST, {**shared, "settings": chosen})
        bench = prepare(model, saes, settings, out, results, progress)
        probing = ResultCache(out / "kept", {**shared, "settings": probed})
        found = _measured(bench, _meaning(bench, probing)) | {"mcc": _matched(bench, probing)}
        write_json(out / "results.json", found)  # type: ignore[arg-type]  # a TypedDict is JSON too
        about: dict[str, JSON] = {**shared, "model": names.fingerprint, "settings": chosen}
        write_bench(found, about, out)
        write_json(out / "score.json", scored(found, model, saes, settings))
    return found


def _parts(
    names: ResultNames, chosen: Mapping[str, JSON]
) -> tuple[dict[str, JSON], dict[str, JSON], dict[str, JSON]]:
    """What decides the folder's store and may not change, what may, and the first of a version before."""
    before: dict[str, JSON] = {}
    if names.before:
        old = {**chosen, **names.manifest.get("settings", {})}
        before = {"model": names.before["model"], "blocks": sorted(names.manifest["saes"])}
        before |= {name: old[name] for name in STORED}
    fixed = {"model": names.identity["model"], "blocks": sorted(names.saes)}
    fixed |= {name: chosen[name] for name in STORED}
    keyed = {"saes": names.identity["saes"], "settings": chosen, "fingerprint": names.fingerprint}
    return fixed, keyed, before


def _measured(bench: BenchInputs, meaning: list[BenchRow]) -> BenchResults:
    """All parts of the benchmark."""
    settings, shifts = bench.settings, bench.shifts()
    # Trial and test images, unedited: enough that every value is missing in as many as are asked for.
    trials = bench.subject.cases(6 * settings.trial_cases, settings.seed + 201)
    tests = bench.subject.cases(6 * settings.test_cases, settings.seed + 202)
    added, removed = causation(bench, shifts, trials, tests)
    found: BenchResults = {"meaning": meaning, "reliable": _reliable(tests)}
    return found | {"causation": added, "removal": removed, **transport_trials(bench)}


def _meaning(bench: BenchInputs, results: ResultCache) -> list[BenchRow]:
    """The telling features of each block's dictionaries."""
    rows: list[BenchRow] = []
    for block in bench.bar(list(bench.saes), "meaning"):
        updates = BlockRows(bench.store[block])
        for name, dictionary in bench.dictionaries[block].items():
            found = results.get(["meaning", block, name], probe, dictionary, updates, bench.scenes)
            rows += [{"block": block, "method": name, **row} for row in found]
    return rows


def _matched(bench: BenchInputs, results: ResultCache) -> dict[str, float]:
    """MCC of each dictionary, all blocks together."""
    found: dict[str, list[list[Candidates]]] = {}
    for block in bench.bar(list(bench.saes), "matching"):
        updates = BlockRows(bench.store[block])
        for name, dictionary in bench.dictionaries[block].items():
            key: JSON = ["matching", block, name]
            of_block = results.get(key, match_candidates, dictionary, updates, bench.scenes)
            found.setdefault(name, []).append(of_block)
    return {name: match_score(blocks) for name, blocks in found.items()}


def _reliable(cases: Cases) -> dict[str, float]:
    """Share of unedited images that show what their caption asks for, by value."""
    asked: dict[str, list[bool]] = {}
    for scene, reading in zip(cases.scenes, cases.readings, strict=True):
        for factor, value in scene.factors().items():
            asked.setdefault(f"{factor}={value}", []).append(reading[factor] == value)
    return {name: float(np.mean(shown)) for name, shown in sorted(asked.items())}
