"""A run on disk: its plan, its metrics, its latest checkpoint, its finished SAEs.

out/run.json                    the plan, and what it was trained on
out/metrics.jsonl               one line per SAE and log interval
out/checkpoint-000001234567/    state.json, start-*.safetensors, tensors/; only the latest stays
out/<name>/                     a finished SAE

The tensors of a checkpoint are written by `torch.distributed.checkpoint` in the safetensors layout of the
Hugging Face Hub: each process writes its own part, of what all have alike a share, and nothing is gathered. A
file holds the weights of one SAE, or one of Adam's moments.
"""

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.storage import WriteResult

from activation_store.files import fsync, naming, sweep, write_json
from unbox.errors import UnboxError
from unbox.run_folder import LOCK, RECORD
from unbox.sae.distributed import file_group, sharded
from unbox.sae.initialization import Start, read_start, write_start
from unbox.sae.plan import Plan, Precision
from unbox.sae.precision import product_precision
from unbox.sae.safetensors_io import Shape, check_header, disk_refusals, read_tensors
from unbox.sae.train_step import MOMENTS, SAETrainer, by_latent
from unbox.sae.training_run import LaneState, Progress, TrainingRun
from unbox.text_files import read_json_object
from unbox.validation import Amount, JSONObject, Real, Several, checked, parsed, validated

RUN, METRICS, STATE, TENSORS = "run.json", "metrics.jsonl", "state.json", "tensors"
#: Store of the rows that are kept from training, where a run generates its rows.
HELD_OUT_STORE = "held-out"
#: What of `run.json` makes a run another.
KEYS = ("plan", "held_out", "only", "rows", "init_from", "transcoder")
#: Largest state.json, in bytes: a few hundred per block and SAE.
STATE_LIMIT = 1 << 24


class Checkpoint(NamedTuple):
    """A checkpoint on disk."""

    folder: Path
    progress: Progress


class CheckpointWriter:
    """Writes checkpoints of a run, whole or not at all, and drops those before. Every process has one.

    On a GPU (`background`) the numbers are copied into pinned memory, which waits for nothing, and written by
    a thread while training goes on: as much memory of the host as a process's weights and moments. On a CPU
    they are written from where they are, and training waits.
    """

    def __init__(self, out: Path, run: TrainingRun, background: bool | None = None) -> None:
        self.out = out
        self.background = run.device.type == "cuda" if background is None else background
        self._written = run.rounds
        self._copies: dict[str, Tensor] = {}
        self._thread = ThreadPoolExecutor(1, "unbox-checkpoint")
        self._pending: Future[None] | None = None
        file_group()  # made by all before a thread asks for it

    def write(self, run: TrainingRun) -> None:
        """Write where a run stands; every process must call it after the same step. Waits for the one before,
        and raises what that met."""
        self.wait()
        if run.rounds == self._written:
            return
        self._written, place = run.rounds, run.progress()
        tensors, files = {}, {}
        for number, fit in enumerate(run.fits.values()):
            for key, tensor in fit.state().items():
                tensors[f"{number}.{key}"] = (key, tensor, fit)
                kind = next((i for i, moment in enumerate(MOMENTS, 2) if f".{moment}." in key), 1)
                files[f"{number}.{key}"] = number * (1 + len(MOMENTS)) + kind
        own = {name: tensor for name, (_, tensor, _) in tensors.items()}
        copied = self._copy(own) if self.background else own
        state = {
            name: sharded(copied[name].cpu(), fit.team.latents)
            if by_latent(key, tensor)
            else copied[name].cpu()
            for name, (key, tensor, fit) in tensors.items()
        }
        path = self.out / f"checkpoint-{sum(lane['done'] for lane in place['lanes'].values()):012d}"
        writer = _Publisher(path, files, place, [lane.start for lane in run.lanes.values()])
        if self.background:
            event = torch.cuda.Event() if run.device.type == "cuda" else None
            if event is not None:
                event.record()
            self._pending = self._thread.submit(_write, state, writer, event)
        else:
            _write(state, writer)

    def wait(self) -> None:
        """Return when the last checkpoint is on the disk; raises what its writing met."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The numbers as they are now, in memory that is used again for the next checkpoint."""
        for name, tensor in tensors.items():
            if name not in self._copies:
                self._copies[name] = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._copies[name].copy_(tensor, non_blocking=True)
        return self._copies


class _Publisher(HuggingFaceStorageWriter):
    """Writes a checkpoint's files under a temporary name; the first process, when all have written theirs,
    adds what was measured of the rows and `state.json`, and gives the folder its name."""

    def __init__(self, path: Path, files: dict[str, int], place: Progress, starts: list[Start]) -> None:
        self.final, self.temporary = path, path.with_name(f".{path.name}~.tmp")
        super().__init__(str(self.temporary / TENSORS), files, save_distributed=True)
        self.place, self.starts = place, starts

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        for number, start in enumerate(self.starts):
            write_start(self.temporary / f"start-{number}.safetensors", start)
        write_json(self.temporary / STATE, self.place)  # type: ignore[arg-type]  # a TypedDict is JSON too
        fsync(self.temporary / TENSORS)
        fsync(self.temporary)
        if self.final.exists():
            shutil.rmtree(self.final)
        os.rename(self.temporary, self.final)
        fsync(self.final.parent)
        remove_checkpoints(self.final.parent, but=self.final)


def _write(state: dict[str, Tensor], writer: _Publisher, ready: "torch.cuda.Event | None" = None) -> None:
    if ready is not None:
        ready.synchronize()
    group = file_group()
    try:
        with naming(writer.final, writer.temporary), disk_refusals(), _first_failure():
            dcp.save(state, storage_writer=writer, process_group=group, no_dist=group is None)
    except BaseException:
        shutil.rmtree(writer.temporary, ignore_errors=True)
        raise


@contextmanager
def _first_failure() -> Iterator[None]:
    """What a process met, in place of the exception that wraps it."""
    warnings.filterwarnings("ignore", "torch.distributed is disabled")  # alone is as it should be
    try:
        yield
    except dcp.CheckpointException as error:
        raise error.failures[min(error.failures)][0] from None


def checkpoints(out: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = out.glob("checkpoint-" + "[0-9]" * 12)
    return sorted(path for path in found if (path / STATE).is_file())


def latest(out: Path, blocks: list[str]) -> Checkpoint | None:
    """The checkpoint to go on from, None where there is none. UnboxError if it is of other blocks."""
    found = checkpoints(out)
    return Checkpoint(found[-1], _place(found[-1] / STATE, blocks)) if found else None


def restore(found: Checkpoint, run: TrainingRun) -> None:
    """Put a checkpoint's numbers into a run that was made with its progress; each process reads its own part.

    Raises UnboxError where it is damaged, not of these SAEs, or holds NaN.
    """
    folder, old = found.folder / TENSORS, (found.folder / "0.safetensors").is_file()
    if not old:
        _check_names(folder, run)
    for number, (name, fit) in enumerate(run.fits.items()):
        if old:  # written by a version before: an SAE a file
            whole = read_tensors(found.folder / f"{number}.safetensors", _state_shapes(fit))
            fit.restore({k: t[fit.latents] if by_latent(k, t) else t for k, t in whole.items()})
        else:
            fit.restore(_read(folder, number, name, fit))
    run.resume(found.progress)


def _read(folder: Path, number: int, name: str, fit: SAETrainer) -> dict[str, Tensor]:
    """This process's part of an SAE's state, on CPU."""
    part = {key: torch.empty_like(tensor, device="cpu") for key, tensor in fit.state().items()}
    targets = {
        f"{number}.{key}": sharded(tensor, fit.team.latents) if by_latent(key, tensor) else tensor
        for key, tensor in part.items()
    }
    group = file_group()
    with _damage(folder), _first_failure():
        dcp.load(targets, storage_reader=HuggingFaceStorageReader(str(folder)), process_group=group)
    for key, tensor in part.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UnboxError(f"{folder}: {key} of {name} holds NaN or infinity")
    return part


def _check_names(folder: Path, run: TrainingRun) -> None:
    """Raise UnboxError unless a checkpoint holds every tensor of a run whole, and no others."""
    for path in folder.glob("*.safetensors"):
        check_header(path)
    with _damage(folder):
        there = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    wanted = {
        f"{number}.{key}": tuple(shape or ())
        for number, fit in enumerate(run.fits.values())
        for key, shape in _state_shapes(fit).items()
    }
    if set(there) != set(wanted):
        some = sorted(set(there) ^ set(wanted))[0]
        raise UnboxError(
            f"{folder} is not of these SAEs, or damaged: {some} is {'not ' * (some in wanted)}there"
        )
    for name, shape in wanted.items():
        found = there[name]
        chunks = found.chunks if isinstance(found, TensorStorageMetadata) else []
        parts = [prod(map(int, chunk.sizes)) for chunk in chunks]
        size = tuple(found.size) if isinstance(found, TensorStorageMetadata) else None
        if size != shape or sum(parts) != prod(map(int, shape)):
            raise UnboxError(f"{folder}: {name} is not there whole in the shape {shape}")


def _state_shapes(fit: SAETrainer) -> dict[str, Shape | None]:
    """Name -> shape of what `restore` needs."""
    n, d = fit.spec.latents, len(fit.start.centre)
    shapes: dict[str, Shape | None] = {"W_enc": (n, d), "W_dec": (n, d), "b_pre": (d,), "b_lat": (n,)}
    if fit.team.latents.world == 1:
        shapes |= {name: tuple(weight.shape) for name, weight in fit.weights.items()}
    for name in fit.weights:
        shapes |= {f"adam.{key}.{name}": shapes[name] for key in MOMENTS}
    state = fit.state()
    others = {name: () for name, tensor in state.items() if not tensor.ndim}
    by_each: dict[str, Shape | None] = {
        name: (n,) for name in ("silent", "dead", "threshold") if name in state
    }
    return {**shapes, **others, **by_each}


@contextmanager
def _damage(folder: Path) -> Iterator[None]:
    """What reading damaged files raises, as an UnboxError that names the folder."""
    try:
        yield
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UnboxError(f"{folder} is damaged: {type(error).__name__} {error}") from None


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


def _place(path: Path, blocks: list[str]) -> Progress:
    """How far the run of a checkpoint is; UnboxError for anything else."""
    found = read_json_object(path, STATE_LIMIT)
    rounds = checked(Amount, "rounds", found.get("rounds"), str(path))
    lanes = checked(JSONObject, "lanes", found.get("lanes"), str(path))
    if set(lanes) != set(blocks):
        raise UnboxError(f"{path} is of other blocks than {', '.join(blocks)}")
    records = {name: parsed(LaneRecord, lane, f"{path}: lanes.{name}") for name, lane in lanes.items()}
    places = {name: LaneState(done=one.done, cursors=list(one.cursors)) for name, one in records.items()}
    rule = Several[Several[Real]]
    meters = {
        name: [list(one) for one in checked(rule, f"meters.{name}", value, str(path))]
        for name, value in checked(JSONObject, "meters", found.get("meters", {}), str(path)).items()
    }
    if uneven := [name for name, value in meters.items() if any(len(one) != 4 for one in value)]:
        raise UnboxError(f"{path}: meters.{uneven[0]} should be four numbers a process")
    return Progress(rounds=rounds, lanes=places, meters=meters)


def begin(out: Path, record: Mapping[str, Any], longer: bool = False) -> None:
    """Make a run's folder, or find the same run in it, which may be asked for more tokens if `longer`.

    Raises UnboxError for a folder with something else.
    """
    if not out.exists() or not any(path.name not in (LOCK, RECORD, HELD_OUT_STORE) for path in out.iterdir()):
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / RUN, record)
        return
    sweep(out)
    before = recorded(out)
    # Options that a version before did not have are as they were without.
    before = {**before, "plan": Plan.from_json(before["plan"], f"{out / RUN}: plan").to_json()}
    before.setdefault("only", {"steps": None, "branches": None})
    if longer and before["plan"]["tokens"] != record["plan"]["tokens"]:
        before["plan"]["tokens"] = record["plan"]["tokens"]
        if all(before.get(key) == record.get(key) for key in KEYS):
            write_json(out / RUN, record)
            return
    keys = [key for key in KEYS if before.get(key) != record.get(key)]
    if keys:
        raise UnboxError(
            f"{out} holds a run with other {_differences(before, record)}; "
            "give the same options to go on with it, or another folder"
        )


def with_precision(plan: Plan, out: Path, device: torch.device) -> Plan:
    """The plan with a precision in place of `auto`: the one that its run in `out` began with, whatever this
    device is best at, so that a run that goes on elsewhere stays one run; or the device's own. Warns where
    the two differ. Runs of versions that did not record it go on in the device's own."""
    own = began = product_precision(plan.precision, device)
    if (out / RUN).is_file():
        said = recorded(out).get("precision", own)
        began = checked(Precision, "precision", said, str(out / RUN))  # type: ignore[arg-type]
    if began != own:
        warnings.warn(
            f"{out} began with products in {began} and goes on with them; precision='auto' would be {own} on "
            "this processor, where they may be slower: train into another folder for those",
            stacklevel=2,
        )
    return replace(plan, precision=began)


def recorded(out: Path) -> dict[str, Any]:
    """What `run.json` says; raises UnboxError where there is none or it is no run's."""
    if not (out / RUN).is_file():
        raise UnboxError(f"{out} holds no run of `unbox train`: there is no {RUN}; choose another folder")
    value = read_json_object(out / RUN)
    if not isinstance(value.get("plan"), dict):
        raise UnboxError(f"{out / RUN} is not a record of a run")
    return value


def recorded_plan(out: Path) -> Plan:
    """The plan of the run in a folder; raises UnboxError where there is none."""
    return Plan.from_json(recorded(out)["plan"], f"{out / RUN}: plan")


def remove_checkpoints(out: Path, but: Path | None = None) -> None:
    """Remove what only an unfinished run needs."""
    for path in checkpoints(out):
        if path != but:
            shutil.rmtree(path)


def _differences(before: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    if before.get("transcoder") != record.get("transcoder"):
        return "source, target or skip of transcoders, or none"
    old, new = before.get("plan", {}), record.get("plan", {})
    names = [key for key in new if old.get(key) != new[key]]
    if not names and before["only"] != (only := record["only"]):
        return ", ".join(f"{key}, {old or 'all'}" for key, old in before["only"].items() if old != only[key])
    if not names and before.get("held_out") != record.get("held_out"):
        return f"held-out part, {before.get('held_out')}"
    if not names and before.get("rows") == record.get("rows"):
        return "SAEs that it began from (init_from)"
    return ", ".join(names) or "rows (another store, or one that has grown)"
