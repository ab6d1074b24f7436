"""The loop: any number of SAEs on one pass over their rows, stopped and resumed to the same bits.

Nothing random is drawn after the start: the order of rows is a function of the seed and the cursor, so a
checkpoint is the weights, the optimiser's state, the counters and the cursors.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from activation_store.batches import Cursor
from unbox.errors import UnboxError
from unbox.memory_limit import require
from unbox.sae.cpu.malloc import reuse_freed_memory
from unbox.sae.cpu.threads import worker_threads
from unbox.sae.distributed import local_device, team
from unbox.sae.initialization import Start, check_finite, measure
from unbox.sae.latent_statistics import calibrated, latent_stats
from unbox.sae.learning_rate import schedule
from unbox.sae.metric_trackers import Sink
from unbox.sae.model import SAE
from unbox.sae.plan import Budget, Option, Plan, Spec, make_plan
from unbox.sae.row_source import RowBatches, RowsLike, RowSource, row_sources, source_of
from unbox.sae.train_step import SAETrainer
from unbox.stopping import stop_point
from unbox.validation import parsed

#: Rows that the finished SAE's statistics are taken over.
STATS_ROWS = 65_536


class LaneState(TypedDict):
    """How far a block is: rows seen, and each process's place in its rows."""

    done: int
    cursors: list[Cursor]


class Progress(TypedDict):
    """How far a run is, as JSON."""

    rounds: int
    lanes: dict[str, LaneState]


class TrainingState(TypedDict):
    """What a run goes on from: the tensors of each SAE's trainer, by name, and how far it is."""

    fits: dict[str, dict[str, Tensor]]
    place: Progress


@dataclass
class Lane:
    """One block: its rows, where it is in them, and the SAEs that learn from them."""

    rows: RowSource
    budget: Budget
    start: Start
    """What was measured of the rows before the first step."""
    fits: dict[str, SAETrainer]
    batches: RowBatches
    done: int = 0
    """Rows seen by each SAE, over all processes."""

    @property
    def left(self) -> int:
        """Rows still to see."""
        return max(0, self.budget.tokens - self.done)

    @property
    def epochs(self) -> float:
        """How far it is: times that its rows were seen."""
        return self.done / len(self.rows)


class TrainingRun:
    """SAEs in training. `advance` takes one step of every SAE; `state` and `restore` carry it over a stop."""

    def __init__(
        self,
        plan: Plan,
        sources: Mapping[str, RowSource],
        device: str | torch.device | None = None,
        starts: Mapping[str, Start] | None = None,
    ) -> None:
        """`starts`: those of the blocks that a checkpoint holds; others are measured.

        Raises UnboxError for blocks without rows, and for rows that nothing can be fitted to."""
        self.plan, self.device = plan, local_device(device)
        self.team = team(plan.share, self.device)
        check_plan(plan, sources, self.device, self.team.everyone.world)
        if self.device.type == "cpu":
            reuse_freed_memory()
        self.names = plan.names()
        self.rounds = 0
        blocks = dict.fromkeys(spec.block for spec in plan.saes)
        known = starts or {}
        self.lanes = {
            block: self._lane(block, source_of(sources, block), known.get(block)) for block in blocks
        }

    @property
    def fits(self) -> dict[str, SAETrainer]:
        """Every SAE in training, by name."""
        return {name: fit for lane in self.lanes.values() for name, fit in lane.fits.items()}

    @property
    def left(self) -> int:
        """Rows still to see, over all blocks."""
        return sum(lane.left for lane in self.lanes.values())

    def advance(self) -> int:
        """One step of every SAE whose block has rows left, and is not ahead of another such block: what is
        read or generated for several blocks at once is used at once. Returns the rows taken, over all."""
        self.rounds += 1
        lanes = [lane for lane in self.lanes.values() if lane.left]
        last = min(lane.epochs for lane in lanes)
        return sum(self._step(lane) for lane in lanes if lane.epochs == last)

    def close(self) -> None:
        """Stop reading ahead."""
        for lane in self.lanes.values():
            lane.batches.close()

    def every(self, name: str) -> int:
        """Steps between events that the plan gives in rows: `log_every`, `checkpoint_every`."""
        rows = max(getattr(lane.budget, name) for lane in self.lanes.values())
        return max(1, round(rows / self.plan.batch_size))

    def state(self) -> TrainingState:
        """Everything needed to go on."""
        lanes: dict[str, LaneState] = {
            block: {"done": lane.done, "cursors": self.team.rows.collect(lane.batches.cursor)}
            for block, lane in self.lanes.items()
        }
        fits = {name: fit.state() for name, fit in self.fits.items()}
        return {"fits": fits, "place": {"rounds": self.rounds, "lanes": lanes}}

    def restore(self, state: TrainingState) -> None:
        """Inverse of `state`, for a new run of the same plan on as many processes."""
        for name, fit in self.fits.items():
            fit.restore(state["fits"][name])
        self.rounds = state["place"]["rounds"]
        for block, lane in self.lanes.items():
            place = state["place"]["lanes"][block]
            if len(place["cursors"]) != self.team.rows.world:
                raise UnboxError(
                    f"the checkpoint is of {len(place['cursors'])} processes and these are "
                    f"{self.team.rows.world}: go on with as many"
                )
            lane.done = place["done"]
            lane.batches.close()
            lane.batches = self._batches(lane.rows, lane.budget, place["cursors"][self.team.rows.rank])

    def metrics(self) -> list[dict[str, str | float]]:
        """Figures of each SAE since they were last read; raises UnboxError if one is no longer finite."""
        found: list[dict[str, str | float]] = []
        for lane in self.lanes.values():
            for name, fit in lane.fits.items():
                rows = fit.rows
                figures = fit.read_meter()
                if not all(np.isfinite(value) for value in figures.values()):
                    raise UnboxError(
                        f"{name} is no longer finite after {lane.done:,} rows: "
                        f"rows hold NaN or infinity, or the learning rate {fit.peak:g} is too high"
                    )
                if rows:
                    rate = fit.peak * schedule(lane.budget, lane.done)
                    found.append({"sae": name, "tokens": lane.done, "lr": rate, **figures})
        return found

    def finished(self) -> Iterator[SAE]:
        """The SAEs as they stand: thresholds calibrated, statistics of their latents taken.

        Every process must run it through; the first one is given the SAEs.
        """
        for lane in self.lanes.values():
            saes = [fit.sae(name) for name, fit in lane.fits.items()]
            if not self.team.first:
                continue
            sample = torch.from_numpy(np.array(lane.rows.sample(STATS_ROWS, self.plan.seed + 1), np.float32))
            deviation = float((sample - sample.mean(0)).square().sum(1).mean().sqrt())
            for sae in saes:
                sae = replace(sae, update_std=deviation)
                if lane.fits[sae.name].variant.batchwise:
                    sae = calibrated(sae, sample)
                yield replace(sae, stats=latent_stats(sae, sample.split(4096)))

    def _lane(self, block: str, rows: RowSource, start: Start | None) -> Lane:
        if not len(rows):
            raise UnboxError(f"there are no rows of '{block}' to train on")
        plan, budget = self.plan, self.plan.budget(len(rows))
        start = self._measured(rows) if start is None else start
        specs = {name: s for name, s in zip(self.names, plan.saes, strict=True) if s.block == block}
        fits = {n: SAETrainer(s, plan, budget, start, self.device, self.team) for n, s in specs.items()}
        return Lane(rows, budget, start, fits, self._batches(rows, budget, None))

    def _measured(self, rows: RowSource) -> Start:
        """What the first process measures: rows may be long in coming, and all must begin alike."""
        plan, found = self.plan, None
        if self.team.first:
            try:
                found = measure(rows, plan.seed, plan.centre, plan.init, plan.scaled)
            except UnboxError as error:
                self.team.everyone.collect(error)
                raise
        told = self.team.everyone.collect(found)[0]
        if isinstance(told, Exception):
            raise told
        assert told is not None
        return told

    def _batches(self, rows: RowSource, budget: Budget, cursor: Cursor | None) -> RowBatches:
        return rows.batches(
            max(1, budget.batch_size // self.team.rows.world),
            seed=self.plan.seed,
            # Ranks may hold slightly different shares of the rows; the count of tokens ends the run.
            epochs=-(-budget.tokens // len(rows)) + (self.team.rows.world > 1),
            rank=self.team.rows.rank,
            world=self.team.rows.world,
            cursor=cursor,
        )

    def _step(self, lane: Lane) -> int:
        x = self._next(lane)
        count = torch.tensor(len(x), device=self.device)
        self.team.rows.sum_(count)
        rows = int(count) if self.team.rows.world > 1 else len(x)
        if not rows:
            raise UnboxError(f"the rows ended {lane.left:,} short of the {lane.budget.tokens:,} asked for")
        factor = schedule(lane.budget, lane.done)
        for fit in lane.fits.values():
            fit.step(x, rows, factor)
        lane.done += rows
        if not lane.left:
            lane.batches.close()
        return rows

    def _next(self, lane: Lane) -> Tensor:
        """This process's share of the next batch, scaled, on the device."""
        share = len(range(self.team.rows.rank, lane.left, self.team.rows.world))
        x = torch.from_numpy(next(lane.batches, np.zeros((0, lane.rows.width), np.float32))[:share])
        scale = lane.start.scale
        with worker_threads() if self.device.type == "cpu" else nullcontext():
            if self.device.type == "cpu":
                check_finite(x)
            x = x.to(self.device, non_blocking=True)
            return x if scale == 1 else x * scale


def check_plan(
    plan: Plan, sources: Mapping[str, RowSource], device: torch.device, processes: int = 1
) -> None:
    """Raises UnboxError for a plan without SAEs, for blocks without rows, and for what needs more memory than
    a request may take, or than the GPU has."""
    if not plan.saes:
        raise UnboxError("no SAE to train: the plan names none")
    widths = {spec.block: source_of(sources, spec.block).width for spec in plan.saes}
    size, what = plan.memory(widths, processes), f"training {', '.join(plan.names()[:3])}"
    if len(plan.saes) > 3:
        what += f" and {len(plan.saes) - 3:,} more together"
    if device.type != "cuda":
        require(size, what)
    elif size > (total := torch.cuda.get_device_properties(device).total_memory):
        raise UnboxError(
            f"{what} would take {size:.3g} bytes of the GPU's {total:.3g}: train fewer SAEs at a time, or "
            "share their latents among several GPUs (--share latents)"
        )


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
    **options: Option,
) -> SAE:
    """Fits one SAE to rows: a block of a store, or an array (..., d). Nothing is written.

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
    with closing(TrainingRun(plan, sources, device=device)) as run:
        steps(run, progress)
        return next(run.finished()).to("cpu")


def steps(
    run: TrainingRun,
    progress: bool,
    sinks: Sequence[Sink] = (),
    checkpoint: Callable[[TrainingRun], None] | None = None,
) -> None:
    """Advances a run to its end, with a bar, lines of metrics, and checkpoints when the plan wants them.

    Metrics are read at every checkpoint too, so that a resumed run writes the same lines.
    """
    log, save = run.every("log_every"), run.every("checkpoint_every")
    total = sum(lane.budget.tokens for lane in run.lanes.values())
    silent = not progress or not run.team.first
    bar = tqdm(total=total, initial=total - run.left, unit="row", unit_scale=True, disable=silent)
    began, taken = time.perf_counter(), 0
    with bar:
        while run.left:
            stop_point()
            moved = run.advance()
            taken += moved
            bar.update(moved)
            saving = checkpoint is not None and run.rounds % save == 0
            if saving or run.rounds % log == 0 or not run.left:
                speed = taken / (time.perf_counter() - began)
                lines = run.metrics()
                for line in lines if run.team.first else ():
                    for sink in sinks:
                        sink.write({**line, "rows_per_second": round(speed, 1)})
                bar.set_postfix_str(", ".join(f"{m['sae']} FVU {m['fvu']:.3f}" for m in lines[:3]))
                began, taken = time.perf_counter(), 0
            if checkpoint is not None and saving:
                checkpoint(run)
