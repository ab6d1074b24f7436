"""How a benchmark of factor values begins: what it tests, and the folder that keeps its results."""

from collections.abc import Mapping, Sequence

from activation_store.files import write_json
from unbox.errors import UnboxError
from unbox.experiments.result_names import MANIFEST, ResultNames
from unbox.ground_truth.bench.bench_settings import CHOOSING
from unbox.ground_truth.bench.dictionary_record import by_block
from unbox.ground_truth.bench.measurements import LoadModel
from unbox.json_types import JSON
from unbox.result_cache import ResultCache
from unbox.run_folder import RunFolder
from unbox.sae import SAE


def tested(saes: Mapping[str, SAE], processes: int, load: LoadModel | None) -> dict[str, SAE]:
    """Block -> SAE. Raises UnboxError without SAEs, for two of one block or one of none, and where several
    processes are not told how to load the model."""
    if not saes:
        raise UnboxError("there are no SAEs to test; train some with `unbox train`")
    if processes > 1 and load is None:
        raise UnboxError(f"{processes} processes need `load`, which gives the model to each by its number")
    return by_block(saes)


def claimed(
    folder: RunFolder,
    names: ResultNames,
    chosen: Mapping[str, JSON],
    stored: Sequence[str],
    before: Mapping[str, JSON] | None = None,
) -> ResultCache:
    """The kept results of the run, which the folder is claimed for and whose manifest is written.

    `chosen`: all settings; those named in `stored` decide the folder's store and may not change. What is
    asked does not change an answer: runs over some of the values fill the folder of all. `before`: of the run
    of a version before, what may not change. Raises UnboxError for a folder of another run.
    """
    fixed = {"model": names.identity["model"], "blocks": sorted(names.saes)}
    fixed |= {name: chosen[name] for name in stored}
    keyed = {"saes": names.identity["saes"], "settings": dict(chosen), "fingerprint": names.fingerprint}
    folder.claim(fixed, keyed, before)
    write_json(folder.path / MANIFEST, {**names.context, "settings": dict(chosen)})
    asked = {name: value for name, value in chosen.items() if name not in CHOOSING}
    return ResultCache(folder.path / "kept", {**names.context, "settings": asked})
