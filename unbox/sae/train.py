"""Training into a folder: many SAEs, checkpoints, metrics, and the finished SAEs with their figures."""

import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unbox.errors import UnboxError
from unbox.installed_versions import version
from unbox.model_mismatch import recorded_model, unet_part
from unbox.run_folder import run_folder
from unbox.sae import checkpoint, metric_trackers
from unbox.sae.distributed import group, local_device
from unbox.sae.evaluate import evaluate
from unbox.sae.fit import SNAPSHOTS, Snapshots
from unbox.sae.fit import steps as take_steps
from unbox.sae.held_out import HELD_OUT, Choice, HeldOut, identity, split
from unbox.sae.model import SAE
from unbox.sae.plan import Option, Plan, RowCount, Spec, make_plan
from unbox.sae.plan_checks import check_plan
from unbox.sae.row_filter import RowFilter
from unbox.sae.row_source import RowsLike, RowSource, filtered, row_sources, source_of
from unbox.sae.sae_folder import CONFIG, is_sae
from unbox.sae.side_by_side import SideBySide
from unbox.sae.training_run import TrainingRun
from unbox.sae.warm_start import NO_ENCODER, InitFrom, initial_saes
from unbox.text_files import read_json_object
from unbox.validation import FilePath, Several, checked, parsed

#: Rows or images of the held-out part that figures are taken on, at most.
HELD_OUT_ROWS = 65_536


def train(
    rows: RowsLike,
    out: str | os.PathLike,
    specs: Sequence[Spec] | None = None,
    *,
    plan: Plan | None = None,
    resume: bool = False,
    held_out: float | Mapping[str, RowSource] | None = None,
    steps: Sequence[int] | None = None,
    branches: Sequence[str] | None = None,
    keep: Sequence[int] = (),
    trackers: Sequence[str] = (),
    device: str | torch.device | None = None,
    progress: bool = True,
    init_from: InitFrom | None = None,
    keep_optimizer: bool = False,
    **options: Option,
) -> dict[str, SAE]:
    """Trains SAEs on one pass over their rows and writes each as a folder under `out`; returns them by name.

    `rows` is a store, a mapping of block to rows, one block's rows, or an array. `specs` (with `options` of
    `Plan`) or a whole `plan` say what to train; a spec without a block stands for every block. Called again
    with the same arguments, a stopped run goes on from its last checkpoint, to the same bits, and a finished
    one is read. With `resume` and neither specs nor plan, the plan is the one recorded in `out`; with
    `tokens` too, the run goes on until it has seen that many, its learning rate from there on that of a run
    of so many. A finished one can if it ran with `keep_optimizer`, which leaves the last checkpoint there.

    `init_from`: SAEs to begin from, in place of random directions: one, several by name, or their folder.

    `held_out` is the part of the images (or, in an array, rows) kept from training, for the figures: 2 %
    unless given, by a hash of their numbers; or other rows, by block, to take them on. `steps` and `branches`
    choose among a store's rows. After each number of rows in `keep` the SAEs are written to `out/snapshots`.
    """
    out, sources = checked(FilePath, "out", out, "train"), row_sources(rows)
    also = checked(Several[metric_trackers.TrackerName], "trackers", trackers, "train")
    marks = checked(Several[RowCount], "keep", keep, "train")
    again, longer = resume and specs is None and plan is None, resume and "tokens" in options
    before = checkpoint.recorded(out) if again or (out / checkpoint.RUN).is_file() else {}
    plan = _plan(out, sources, specs, plan, resume, options, before)
    chosen = {"held_out": held_out, "steps": steps, "branches": branches}
    learn, test, facts = _rows(sources, plan, before, chosen, again)
    processes = group(at := local_device(device))
    if not (finished := _is_finished(out, plan, learn)):
        check_plan(plan, learn, at, processes.world)
    initial = _initial(init_from, plan, before)
    settled = plan if finished else processes.from_first(lambda: checkpoint.with_precision(plan, out, at))
    record = {"plan": plan.to_json(), "precision": settled.precision, **facts, "provenance": provenance(rows),
              **_began_from(initial, before if again else {})}  # fmt: skip
    with nullcontext() if finished or processes.rank else run_folder(out, "train"):
        known = finished or bool(initial)
        found = processes.from_first(lambda: _begun(out, record, plan.names(), longer, known))
        if not finished:
            starts = checkpoint.read_starts(out, plan, {b: learn[b].width for b in facts["rows"]})
            with closing(TrainingRun(settled, learn, device, starts, initial)) as run:
                if found is not None:
                    checkpoint.restore(found, run)
                run.look_at(test)
                snapshots = Snapshots(run, marks, partial(_write_snapshot, run, out, record))
                _train(run, out, also, progress, snapshots)
                _finish(run, out, test, record, keep_optimizer)
    return _trained(out, plan, facts["rows"])


def _rows(
    sources: dict[str, RowSource], plan: Plan, before: dict[str, Any], asked: dict[str, Any], again: bool
) -> tuple[dict[str, RowSource], dict[str, RowSource | None], dict[str, Any]]:
    """Rows to learn from, rows to test on, and what the run records of both. `before`: the record in its
    folder, by which a run goes on `again`; `asked`: its held-out part, steps and branches otherwise."""
    if (held_out := asked.pop("held_out")) is None:
        held_out = checked(
            HeldOut, "held_out", before.get("held_out", HELD_OUT) if again else HELD_OUT, "train"
        )
    only = parsed(RowFilter, before.get("only", {}) if again else asked, "train")
    sources = {block: filtered(source, only.steps, only.branches) for block, source in sources.items()}
    choice: Choice = "last" if before and "held_out_by" not in before else "hash"
    learn, test, kept = split(sources, {spec.block for spec in plan.saes}, held_out, choice)
    facts: dict[str, Any] = {
        "held_out": kept,
        "rows": {spec.block: identity(source_of(learn, spec.block)) for spec in plan.saes},
        "only": {key: value and list(value) for key, value in asdict(only).items()},
    }
    return learn, test, facts | ({"held_out_by": choice} if choice == "hash" else {})


def _initial(init_from: InitFrom | None, plan: Plan, before: Mapping[str, Any]) -> dict[str, SAE]:
    """The SAEs that a run begins from, by its names; `before`: the record in its folder."""
    if init_from is None and plan.freeze_encoder and "init_from" not in before:
        raise UnboxError(NO_ENCODER)
    return {} if init_from is None else initial_saes(init_from, plan.names(), plan.saes)


def _began_from(initial: Mapping[str, SAE], before: Mapping[str, Any]) -> dict[str, Any]:
    """What the record says of the SAEs that a run begins from, or began from `before`."""
    found = {name: sae.identity for name, sae in initial.items()} or before.get("init_from")
    return {"init_from": found} if found else {}


def _begun(
    out: Path, record: dict[str, Any], names: list[str], longer: bool, known: bool
) -> checkpoint.Checkpoint | None:
    """The run's folder made or found, and the checkpoint in it to go on from. `known`: whether it needs none
    to know what it begins from."""
    another = longer and checkpoint.recorded(out)["plan"].get("tokens") != record["plan"]["tokens"]
    if another and any(is_sae(out / name) for name in names) and not checkpoint.checkpoints(out):
        raise UnboxError(
            f"the run in {out} is finished, and its optimizer's state was not kept (keep_optimizer): train "
            f"into another folder, with init_from={str(out)!r} to begin from its SAEs"
        )
    checkpoint.begin(out, record, longer)
    found = checkpoint.latest(out, list(record["rows"]))
    if found is None and "init_from" in record and not known:
        raise UnboxError(f"{out} holds no checkpoint yet: say again what it is to begin from, init_from")
    return found


def _is_finished(out: Path, plan: Plan, learn: Mapping[str, RowSource]) -> bool:
    """True where every SAE of a plan has its folder."""
    budgets = {spec.block: plan.budget(len(source_of(learn, spec.block))).tokens for spec in plan.saes}
    return all(
        _is_ready(out / name, budgets[spec.block]) for name, spec in zip(plan.names(), plan.saes, strict=True)
    )


def _trained(out: Path, plan: Plan, rows: Mapping[str, Any]) -> dict[str, SAE]:
    """The SAEs of a finished run, by name."""
    saes = {name: SAE.load(out / name) for name in plan.names()}
    for spec, (name, sae) in zip(plan.saes, saes.items(), strict=True):
        _check_own(out / name, sae, spec, rows[spec.block])
    return saes


def _is_ready(folder: Path, tokens: int) -> bool:
    """True for an SAE's folder, unless it says that it was trained on fewer or more tokens."""
    if not is_sae(folder):
        return False
    meta = read_json_object(folder / CONFIG).get("meta")
    training = meta.get("training") if isinstance(meta, dict) else None
    return not isinstance(training, dict) or training.get("tokens", tokens) == tokens


def _check_own(folder: Path, sae: SAE, spec: Spec, rows: dict[str, Any]) -> None:
    """Raise UnboxError for an SAE that this run did not train: one that was put into its folder."""
    own = {"block": spec.block, "k": spec.k, "latents": spec.latents, "rows": rows}
    found = {"block": sae.block, "k": sae.k, "latents": sae.latents, "rows": sae.meta.get("rows")}
    if differing := [name for name in own if own[name] != found[name]]:
        told = "; ".join(f"{name} is {found[name]}, the run's {own[name]}" for name in differing)
        raise UnboxError(f"{folder} is not of this run: {told}. Remove it, and it is trained again")


def provenance(rows: RowsLike | None = None) -> dict[str, Any]:
    """Versions, the store's own digest, and of which model it is, JSON-able."""
    found = {name: version(name) for name in ("unbox", "torch", "numpy")}
    facts = {"versions": found, "python": platform.python_version(), "machine": platform.machine()}
    if (digest := getattr(rows, "digest", None)) is not None:
        facts["store"] = str(digest)
    if (recorded := recorded_model(_provenance_of(rows))) is not None:
        facts["model"] = unet_part(recorded)
    return facts


def _provenance_of(rows: RowsLike | None) -> Mapping[str, Any]:
    """What the store of rows records of its run; nothing where there is no store."""
    if isinstance(rows, Mapping):
        rows = next(iter(rows.values()), None)
    found = getattr(rows, "provenance", {})
    return found if isinstance(found, Mapping) else {}


def _plan(
    out: Path,
    sources: dict[str, RowSource],
    specs: Sequence[Spec] | None,
    plan: Plan | None,
    resume: bool,
    options: dict[str, Option],
    before: Mapping[str, Any],
) -> Plan:
    """The plan asked for; a run that goes on had no choice of what versions `before` did not offer."""
    found = _asked_plan(out, sources, specs, plan, resume, options)
    former = before and "aux_k" not in before["plan"] and found.aux_k == Plan().aux_k
    return replace(found, aux_k=None) if former else found


def _asked_plan(
    out: Path,
    sources: dict[str, RowSource],
    specs: Sequence[Spec] | None,
    plan: Plan | None,
    resume: bool,
    options: dict[str, Option],
) -> Plan:
    if plan is not None and (specs is not None or options):
        raise UnboxError("give either a whole plan, or specs and options")
    if plan is None and specs is None:
        if not resume:
            raise UnboxError("nothing to train: give specs, a plan, or resume=True for the run in the folder")
        plan = checkpoint.recorded_plan(out)
        return _longer(plan, sources, options) if options else plan
    if plan is None:
        plan = make_plan(specs or (), **options)
    blocks = [(spec, block) for spec in plan.saes for block in ([spec.block] if spec.block else sources)]
    return replace(plan, saes=tuple(replace(spec, block=block) for spec, block in blocks))


def _longer(plan: Plan, sources: dict[str, RowSource], options: dict[str, Option]) -> Plan:
    """A recorded plan with more tokens."""
    if set(options) != {"tokens"}:
        told = ", ".join(sorted(set(options) - {"tokens"}))
        raise UnboxError(
            f"resume takes its plan from the folder, and of options tokens alone; {told} is another"
        )
    longer = replace(plan, tokens=checked(RowCount, "tokens", options["tokens"], "train"))
    seen = max(plan.budget(len(source_of(sources, spec.block))).tokens for spec in plan.saes)
    if plan.tokens is not None and longer.budget(1).tokens < seen:
        raise UnboxError(f"tokens = {longer.tokens:,} is less than the {seen:,} that the run was asked for")
    return longer


def _train(
    run: TrainingRun,
    out: Path,
    trackers: Sequence[metric_trackers.TrackerName],
    progress: bool,
    snapshots: Snapshots,
) -> None:
    sinks: list[metric_trackers.Sink] = []
    if run.team.first:
        done = {name: lane.done for lane in run.lanes.values() for name in lane.fits}
        metric_trackers.rewind(out / checkpoint.METRICS, done)
        sinks.append(metric_trackers.json_lines(out / checkpoint.METRICS))
    try:
        sinks += metric_trackers.trackers(trackers, out) if run.team.first else []
        with closing(checkpoint.CheckpointWriter(out, run)) as writer:
            take_steps(run, progress, sinks, writer.write, snapshots.take)
    finally:
        for sink in sinks:
            sink.close()


def _meta(run: TrainingRun, sae: SAE, record: dict[str, Any]) -> dict[str, Any]:
    """What an SAE's configuration says of its training."""
    fit, lane = run.fits[sae.name], run.lanes[sae.block]
    training = {k: v for k, v in run.plan.to_json().items() if k != "saes"} | asdict(lane.budget)
    training |= {"variant": fit.spec.variant, "seed": fit.spec.seed, "lr": fit.peak}
    if "init_from" in record:
        training["init_from"] = record["init_from"][sae.name]
    training |= {"levels": list(fit.spec.levels), "encoder_dtype": str(fit.lowp).removeprefix("torch.")}
    sources = {"sources": lane.rows.to_json()} if isinstance(lane.rows, SideBySide) else {}
    return {
        "training": training,
        "rows": record["rows"][sae.block],
        "provenance": record["provenance"],
        **sources,
    }


def _write_snapshot(run: TrainingRun, out: Path, record: dict[str, Any], sae: SAE, mark: int) -> None:
    meta = _meta(run, sae, record)
    meta["training"]["seen"] = run.lanes[sae.block].done
    replace(sae.to("cpu"), meta=meta).save(out / SNAPSHOTS / f"{mark:012d}" / sae.name, overwrite=True)


def _finish(
    run: TrainingRun,
    out: Path,
    test: Mapping[str, RowSource | None],
    record: dict[str, Any],
    keep_optimizer: bool,
) -> None:
    """Take the figures, write the SAEs, remove what only an unfinished run needs."""
    run.close()
    for sae in run.finished():
        rows = test[sae.block]
        on = "held-out rows" if rows is not None else "rows of the training"
        taken = run.lanes[sae.block].rows if rows is None else rows
        figures = evaluate(sae, taken, limit=HELD_OUT_ROWS, max_norm=run.plan.max_norm).to_json()
        meta = {**_meta(run, sae, record), "figures": {**figures, "rows_from": on}}
        replace(sae.to("cpu"), meta=meta).save(out / sae.name, overwrite=True)
    run.team.everyone.collect("written")
    if run.team.first and not keep_optimizer:
        checkpoint.remove_checkpoints(out)
    run.team.everyone.collect("removed")
