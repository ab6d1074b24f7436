"""Training transcoders into a folder, stopped and resumed as SAEs are."""

import os
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unbox.errors import UnboxError
from unbox.run_folder import run_folder
from unbox.sae import checkpoint, metric_trackers
from unbox.sae.distributed import group, local_device
from unbox.sae.fit import steps
from unbox.sae.held_out import HELD_OUT, identity, split
from unbox.sae.latent_statistics import calibrated
from unbox.sae.model import SAE
from unbox.sae.plan import Option, Plan, Spec, make_plan
from unbox.sae.row_source import RowSource
from unbox.sae.side_by_side import SideBySide, side_by_side
from unbox.sae.train import provenance
from unbox.sae.training_run import TrainingRun
from unbox.sae.transcoder import Transcoder, is_transcoder
from unbox.sae.transcoder_step import TranscoderTrainer
from unbox.validation import FilePath, checked

#: Rows that a finished transcoder's threshold and figures are taken on, at most.
FIGURE_ROWS = 65_536


def train_transcoder(
    source: RowSource | np.ndarray,
    target: RowSource | np.ndarray,
    out: str | os.PathLike,
    specs: Sequence[Spec] = (),
    *,
    plan: Plan | None = None,
    skip: bool = False,
    held_out: float = HELD_OUT,
    device: str | torch.device | None = None,
    progress: bool = True,
    **options: Option,
) -> dict[str, Transcoder]:
    """Trains transcoders from rows of `source` to those of `target` that belong to them; gives them by name.

    Both are rows of stores of the same images, or arrays of equal length. `specs` (with `options` of `Plan`),
    or a whole `plan`, say which; variants are topk and batchtopk. `skip` adds a linear map to the latents.
    Called again with the same arguments, a stopped run goes on, to the same bits, and a finished one is read.
    """
    out = checked(FilePath, "out", out, "train_transcoder")
    rows = _both(source, target)
    plan = make_plan(specs, **options) if plan is None else plan
    if plan.freeze_encoder:
        raise UnboxError("freeze_encoder is for SAEs: a transcoder begins from random directions")
    plan = replace(plan, saes=tuple(replace(spec, block=rows.block) for spec in plan.saes))
    learn, test, kept = split({rows.block: rows}, {rows.block}, held_out)
    names, at = plan.names(), local_device(device)
    processes, finished = group(at), all(is_transcoder(out / name) for name in names)
    settled = plan if finished else processes.from_first(lambda: checkpoint.with_precision(plan, out, at))
    record: dict[str, Any] = {
        "plan": plan.to_json(),
        "precision": settled.precision,
        "held_out": kept,
        "only": {"steps": None, "branches": None},
        "rows": {rows.block: identity(learn[rows.block])},
        "transcoder": {"skip": skip, **rows.to_json()},
        "provenance": provenance(source if isinstance(source, RowSource) else None),
    }

    def begun() -> checkpoint.Checkpoint | None:
        checkpoint.begin(out, record)
        return checkpoint.latest(out, [rows.block])

    with nullcontext() if finished or processes.rank else run_folder(out, "train"):
        found = processes.from_first(begun)
        if not finished:
            starts = checkpoint.read_starts(out, plan, {rows.block: rows.width})
            widths = tuple(rows.widths.values())
            trainer = partial(TranscoderTrainer, (widths[0], widths[1]), skip)
            with closing(TrainingRun(settled, learn, device, starts, trainer=trainer)) as run:
                if found is not None:
                    checkpoint.restore(found, run)
                run.look_at(test)
                _train(run, out, progress)
                if processes.rank == 0:
                    _finish(run, out, rows, test[rows.block] or learn[rows.block], record)
                processes.collect("written")
                if processes.rank == 0:
                    checkpoint.remove_checkpoints(out)
    return {name: Transcoder.load(out / name) for name in names}


def _both(source: RowSource | np.ndarray, target: RowSource | np.ndarray) -> SideBySide:
    """Source and target side by side, by the names of their blocks."""
    names = (getattr(source, "block", "") or "source", getattr(target, "block", "") or "target")
    names = names if len(set(names)) == 2 else ("source", "target")
    return side_by_side(dict(zip(names, (source, target), strict=True)))


def _train(run: TrainingRun, out: Path, progress: bool) -> None:
    sinks: list[metric_trackers.Sink] = []
    if run.team.first:
        metric_trackers.rewind(
            out / checkpoint.METRICS, {n: lane.done for lane in run.lanes.values() for n in lane.fits}
        )
        sinks.append(metric_trackers.json_lines(out / checkpoint.METRICS))
    try:
        with closing(checkpoint.CheckpointWriter(out, run)) as writer:
            steps(run, progress, sinks, writer.write)
    finally:
        for sink in sinks:
            sink.close()


def _finish(run: TrainingRun, out: Path, rows: SideBySide, test: RowSource, record: dict[str, Any]) -> None:
    """Calibrate thresholds, take figures, write."""
    (source, target), (width, _) = rows.widths, rows.widths.values()
    factors = (rows.factors[source], rows.factors[target])
    scale = np.repeat(factors, list(rows.widths.values())).astype(np.float32)
    learnt = torch.from_numpy(run.lanes[rows.block].rows.sample(FIGURE_ROWS, run.plan.seed + 1) / scale)
    seen = torch.from_numpy(test.sample(FIGURE_ROWS, run.plan.seed + 2) / scale)
    for name, one in run.fits.items():
        assert isinstance(one, TranscoderTrainer)
        found = one.transcoder(name, source, target, factors)
        threshold = None
        if one.variant.batchwise:
            encoder = SAE(found.W_enc, found.W_enc, found.b_pre, found.b_lat, found.k)
            threshold = calibrated(encoder, learnt[:, :width]).threshold
        weights = {key: value for key, value in found.state_dict().items() if key != "threshold"}
        whole = Transcoder(weights, found.k, source, target, name, threshold)
        training = {key: value for key, value in run.plan.to_json().items() if key != "saes"}
        whole.meta = {
            "training": {**training, "variant": one.spec.variant, "seed": one.spec.seed, "lr": one.peak},
            "figures": whole.figures(seen[:, :width], seen[:, width:]),
            "rows": record["rows"][rows.block],
            "provenance": record["provenance"],
        }
        whole.to("cpu").save(out / name, overwrite=True)
