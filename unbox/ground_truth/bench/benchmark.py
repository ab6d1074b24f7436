"""`unbox bench shapes`: meaning, causation, ownership and transport, every method on the same images."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from activation_store.files import write_json
from unbox.errors import UnboxError
from unbox.former_names import as_written
from unbox.ground_truth.bench.bench_inputs import BenchInputs, BlockRows, prepare
from unbox.ground_truth.bench.bench_rows import BenchResults, BenchRow
from unbox.ground_truth.bench.bench_settings import FORMER, BenchSettings
from unbox.ground_truth.bench.causation import causation
from unbox.ground_truth.bench.probing import probe
from unbox.ground_truth.bench.report import write_bench
from unbox.ground_truth.bench.transport_trials import transport_trials
from unbox.ground_truth.effects import Cases
from unbox.json_types import JSON
from unbox.models import Model
from unbox.result_cache import ResultCache
from unbox.sae import SAE


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
    saes = {sae.block: sae for sae in saes.values()}
    chosen: dict[str, JSON] = as_written(asdict(settings), FORMER)
    digests = {block: sae.digest for block, sae in saes.items()}
    shared: dict[str, JSON] = {"model": model.fingerprint, "saes": digests}
    # What is asked does not change an answer: runs over some of the values fill the folder of a run over all.
    results = ResultCache(
        out / "kept", {**shared, "settings": {k: v for k, v in chosen.items() if k != "values"}}
    )
    probed = {name: chosen[name] for name in ("steps", "prompts", "seed")}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "manifest.json", {**shared, "settings": chosen})
    bench = prepare(model, saes, settings, out, results, progress)
    meaning = _meaning(bench, ResultCache(out / "kept", {**shared, "settings": probed}))
    shifts = bench.shifts()
    # Trial and test images, unedited: enough that every value is missing in as many as are asked for.
    trials = bench.subject.cases(6 * settings.trial_cases, settings.seed + 201)
    tests = bench.subject.cases(6 * settings.test_cases, settings.seed + 202)
    added, removed = causation(bench, shifts, trials, tests)
    found: BenchResults = {"meaning": meaning, "reliable": _reliable(tests)}
    found |= {"causation": added, "removal": removed, **transport_trials(bench)}
    write_json(out / "results.json", found)  # type: ignore[arg-type]  # a TypedDict is JSON too
    write_bench(found, {**shared, "settings": chosen}, out)
    return found


def _meaning(bench: BenchInputs, results: ResultCache) -> list[BenchRow]:
    """The telling features of each block's dictionaries."""
    rows: list[BenchRow] = []
    for block in bench.bar(list(bench.saes), "meaning"):
        updates = BlockRows(bench.store[block])
        for name, dictionary in bench.dictionaries[block].items():
            found = results.get(["meaning", block, name], probe, dictionary, updates, bench.scenes)
            rows += [{"block": block, "method": name, **row} for row in found]
    return rows


def _reliable(cases: Cases) -> dict[str, float]:
    """Share of unedited images that show what their caption asks for, by value."""
    asked: dict[str, list[bool]] = {}
    for scene, reading in zip(cases.scenes, cases.readings, strict=True):
        for factor, value in scene.factors().items():
            asked.setdefault(f"{factor}={value}", []).append(reading[factor] == value)
    return {name: float(np.mean(shown)) for name, shown in sorted(asked.items())}
