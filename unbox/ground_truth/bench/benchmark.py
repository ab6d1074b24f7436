"""`unbox bench shapes`: meaning, causation, ownership and transport, every method on the same images."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from activation_store.files import write_json
from unbox.experiments.result_names import ResultNames
from unbox.former_names import as_written
from unbox.ground_truth.bench.bench_folder import claimed, tested
from unbox.ground_truth.bench.bench_inputs import collect_captions, prepare
from unbox.ground_truth.bench.bench_rows import BenchResults
from unbox.ground_truth.bench.bench_settings import FORMER, BenchSettings
from unbox.ground_truth.bench.dictionary_record import scored
from unbox.ground_truth.bench.measurements import LoadModel, Measurements, measure_in_processes
from unbox.ground_truth.bench.report import write_bench
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
    processes: int = 1,
    load: LoadModel | None = None,
) -> BenchResults:
    """Run the benchmark (what is missing of it) and write results, tables and a page into `out`.

    `processes`: so many share what is missing, value by value; `load` gives the model to each, by its number,
    and must be picklable (`unbox.processes`).

    Returns {"meaning": rows, "causation": rows, "removal": rows, "ownership": rows, "transport": rows,
    "reliable": {"factor=value": share}}. Raises UnboxError without SAEs.
    """
    settings, out = settings or BenchSettings(), Path(out)
    saes = tested(saes, processes, load)
    chosen: dict[str, JSON] = as_written(asdict(settings), FORMER)
    with run_folder(out, "bench shapes") as folder:
        names = ResultNames.of(folder, model, saes)
        shared = names.context
        results = claimed(folder, names, chosen, STORED, _before(names, chosen))
        probed = {name: chosen[name] for name in STORED}
        probing = ResultCache(out / "kept", {**shared, "settings": probed})
        if processes > 1 and load is not None:
            collect_captions(model, tuple(saes), settings, out, progress)
            measure_in_processes(load, processes, saes, settings, out, results, probing, progress)
        bench = prepare(model, saes, settings, out, results, progress)
        found = Measurements(bench, probing).all()
        write_json(out / "results.json", found)  # type: ignore[arg-type]  # a TypedDict is JSON too
        about: dict[str, JSON] = {**shared, "model": names.fingerprint, "settings": chosen}
        write_bench(found, about, out)
        write_json(out / "score.json", scored(found, model, saes, settings))
    return found


def _before(names: ResultNames, chosen: Mapping[str, JSON]) -> dict[str, JSON]:
    """What decides the folder's store, of the run of a version before; empty where there is none."""
    if not names.before:
        return {}
    old = {**chosen, **names.manifest.get("settings", {})}
    before: dict[str, JSON] = {"model": names.before["model"], "blocks": sorted(names.manifest["saes"])}
    return before | {name: old[name] for name in STORED}
