"""A run on disk: its plan, its metrics, its latest checkpoint, its finished SAEs.

out/run.json                    the plan, and what it was trained on
out/metrics.jsonl               one line per SAE and log interval
out/checkpoint-000001234567/    state.json, and a safetensors file per SAE; only the latest stays
out/<name>/                     a finished SAE
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from activation_store.files import publish_folder, sweep, write_json
from unbox.errors import UnboxError
from unbox.run_folder import LOCK
from unbox.sae.fit import LaneState, Progress, TrainingRun, TrainingState
from unbox.sae.initialization import Start, read_start, write_start
from unbox.sae.plan import Plan
from unbox.sae.safetensors_io import read_tensors, write_tensors
from unbox.sae.train_step import state_shapes
from unbox.text_files import read_json_object
from unbox.validation import Amount, JSONObject, Several, checked, parsed, validated

RUN, METRICS, STATE = "run.json", "metrics.jsonl", "state.json"
#: Largest state.json, in bytes: a few hundred per block.
STATE_LIMIT = 1 << 24


def write_checkpoint(out: Path, run: TrainingRun) -> None:
    """Write where a run stands, whole or not at all, and drop the checkpoints before it.

    Every process calls it; the first writes.
    """
    state = run.state()
    if not run.team.first:
        return
    done = sum(lane["done"] for lane in state["place"]["lanes"].values())
    path = out / f"checkpoint-{done:012d}"
    with publish_folder(path, replace=True) as temporary:
        for number, tensors in enumerate(state["fits"].values()):
            write_tensors(temporary / f"{number}.safetensors", tensors)
        for number, lane in enumerate(run.lanes.values()):
            write_start(temporary / f"start-{number}.safetensors", lane.start)
        write_json(temporary / STATE, state["place"])  # type: ignore[arg-type]  # a TypedDict is JSON too
    remove_checkpoints(out, but=path)


def checkpoints(out: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = out.glob("checkpoint-" + "[0-9]" * 12)
    return sorted(path for path in found if (path / STATE).is_file())


def read_checkpoint(out: Path, run: TrainingRun) -> TrainingState | None:
    """The state to restore a run from, or None where there is none. Raises UnboxError if damaged."""
    found = checkpoints(out)
    if not found:
        return None
    folder = found[-1]
    place = _place(folder / STATE, run)
    fits = {
        name: read_tensors(folder / f"{number}.safetensors", state_shapes(fit))
        for number, (name, fit) in enumerate(run.fits.items())
    }
    return TrainingState(fits=fits, place=place)


def read_starts(out: Path, plan: Plan, widths: Mapping[str, int]) -> dict[str, Start]:
    """What was measured of the rows when the run of the latest checkpoint began, by block.

    Empty where there is no checkpoint, or one of a version that did not keep it: it is measured again.
    """
    found = checkpoints(out)
    paths = {
        block: found[-1] / f"start-{number}.safetensors"
        for number, block in enumerate(dict.fromkeys(spec.block for spec in plan.saes) if found else ())
    }
    return {b: read_start(path, widths[b], plan.init) for b, path in paths.items() if path.is_file()}


@validated
class LaneRecord:
    """How far a block is: rows seen, and each process's place in its rows."""

    done: Amount
    cursors: Several[JSONObject]


def _place(path: Path, run: TrainingRun) -> Progress:
    """How far the run of a checkpoint is; UnboxError for anything else."""
    found = read_json_object(path, STATE_LIMIT)
    rounds = checked(Amount, "rounds", found.get("rounds"), str(path))
    lanes = checked(JSONObject, "lanes", found.get("lanes"), str(path))
    if set(lanes) != set(run.lanes):
        raise UnboxError(f"{path} is of other blocks than {', '.join(run.lanes)}")
    records = {name: parsed(LaneRecord, lane, f"{path}: lanes.{name}") for name, lane in lanes.items()}
    places = {name: LaneState(done=one.done, cursors=list(one.cursors)) for name, one in records.items()}
    return Progress(rounds=rounds, lanes=places)


def begin(out: Path, record: Mapping[str, Any]) -> None:
    """Make a run's folder, or find the same run in it. Raises UnboxError for a folder with something else."""
    if not out.exists() or not any(path.name != LOCK for path in out.iterdir()):
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / RUN, record)
        return
    sweep(out)
    before = recorded(out)
    keys = [key for key in ("plan", "held_out", "rows") if before.get(key) != record.get(key)]
    if keys:
        raise UnboxError(
            f"{out} holds a run with other {_differences(before, record)}; "
            "give the same options to go on with it, or another folder"
        )


def recorded(out: Path) -> dict[str, Any]:
    """What `run.json` says; raises UnboxError where there is none or it is no run's."""
    if not (out / RUN).is_file():
        raise UnboxError(f"{out} holds no run of `unbox train`: there is no {RUN}; choose another folder")
    value = read_json_object(out / RUN)
    if not isinstance(value.get("plan"), dict):
        raise UnboxError(f"{out / RUN} is not a record of a run")
    return value


def remove_checkpoints(out: Path, but: Path | None = None) -> None:
    """Remove what only an unfinished run needs."""
    for path in checkpoints(out):
        if path != but:
            shutil.rmtree(path)


def _differences(before: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    old, new = before.get("plan", {}), record.get("plan", {})
    names = [key for key in new if old.get(key) != new[key]]
    if not names and before.get("held_out") != record.get("held_out"):
        return f"held-out part, {before.get('held_out')}"
    return ", ".join(names) or "rows (another store, or one that has grown)"
