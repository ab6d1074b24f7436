"""The loop: a run stepped to its end, with metrics, checkpoints, snapshots; and `fit`, without a folder."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import cast

import torch
from tqdm import tqdm

from unbox.errors import UnboxError
from unbox.sae.metric_trackers import Sink
from unbox.sae.model import SAE
from unbox.sae.plan import Option, Spec, make_plan
from unbox.sae.row_source import RowsLike, row_sources
from unbox.sae.training_run import TrainingRun
from unbox.sae.warm_start import NO_ENCODER, InitFrom, initial_saes
from unbox.stopping import unit
from unbox.validation import parsed

#: Where a run's folder has the SAEs as they stood.
SNAPSHOTS = "snapshots"


class Snapshots:
    """Hands over the SAEs as they stand when a block's rows pass a mark."""

    def __init__(self, run: TrainingRun, marks: Sequence[int], write: Callable[[SAE, int], None]) -> None:
        self.marks, self.write = sorted(marks), write
        self.done = {block: lane.done for block, lane in run.lanes.items()}

    def take(self, run: TrainingRun) -> None:
        """Look whether a mark was passed in the step before; every process must call it after every step."""
        for block, lane in run.lanes.items():
            before, self.done[block] = self.done[block], lane.done
            for mark in (mark for mark in self.marks if before < mark <= lane.done):
                for sae in run.finished(lane.fits):
                    self.write(sae, mark)


def fit(
    rows: RowsLike,
    k: int,
    latents: int,
    *,
    tokens: int | None = None,
    seed: int = 0,
    batch_size: int = 4096,
    lr: float | None = None,
    variant: str = "topk",
    levels: Sequence[int] = (),
    device: str | torch.device | None = None,
    progress: bool = True,
    init_from: InitFrom | None = None,
    **options: Option,
) -> SAE:
    """Fits one SAE to rows: a block of a store, or an array (..., d). Nothing is written. `init_from`: an SAE
    to begin from, in place of random directions.

    `tokens` is the number of rows it sees (None: each once); `options` are those of `Plan`. Raises UnboxError
    for k > latents, rows that are constant or not finite, and unknown options.
    """
    sources = row_sources(rows)
    if len(sources) != 1:
        raise UnboxError(f"fit takes the rows of one block, these are of {', '.join(sources)}")
    spec = parsed(
        Spec,
        {"block": next(iter(sources)), "k": k, "latents": latents, "variant": variant}
        | {"levels": levels, "seed": seed, "lr": lr},
        "fit",
    )
    plan = make_plan([spec], tokens=tokens, seed=seed, batch_size=batch_size, **options)
    if plan.freeze_encoder and init_from is None:
        raise UnboxError(NO_ENCODER)
    initial = None if init_from is None else initial_saes(init_from, plan.names(), plan.saes)
    with closing(TrainingRun(plan, sources, device, initial=initial)) as run:
        steps(run, progress)
        found = next(run.finished(), None)
        return run.team.everyone.from_first(lambda: cast(SAE, found)).to("cpu")


def steps(
    run: TrainingRun,
    progress: bool,
    sinks: Sequence[Sink] = (),
    checkpoint: Callable[[TrainingRun], None] | None = None,
    after: Callable[[TrainingRun], None] | None = None,
) -> None:
    """Advances a run to its end, with a bar, lines of metrics, and checkpoints: when the plan wants them, at
    the end, and after the step in which a signal asks to stop, which is raised then.

    Metrics are read at every checkpoint of the plan's too, so that a resumed run writes the same lines.
    `after` is called after every step.
    """
    log, save = run.every("log_every"), run.every("checkpoint_every")
    total = sum(lane.budget.tokens for lane in run.lanes.values())
    silent = not progress or not run.team.first
    bar = tqdm(total=total, initial=total - run.left, unit="row", unit_scale=True, disable=silent)
    began, taken = time.perf_counter(), 0
    with unit(), bar:
        while run.left:
            if (stop := run.await_rows()) is not None:
                if checkpoint is not None:
                    checkpoint(run)
                raise stop
            saving = checkpoint is not None and (run.rounds + 1) % save == 0
            logging = saving or (run.rounds + 1) % log == 0
            moved = run.advance(logging or run.left <= run.at_most)
            taken += moved
            bar.update(moved)
            if after is not None:
                after(run)
            if logging or not run.left:
                speed = taken / (time.perf_counter() - began)
                lines = run.metrics()
                for line in lines if run.team.first else ():
                    for sink in sinks:
                        sink.write({**line, "rows_per_second": round(speed, 1)})
                bar.set_postfix_str(", ".join(f"{m['sae']} FVU {m['fvu']:.3f}" for m in lines[:3]))
                began, taken = time.perf_counter(), 0
            stop = run.stop_wanted()
            if checkpoint is not None and (saving or stop is not None or not run.left):
                checkpoint(run)
            if stop is not None:
                raise stop
