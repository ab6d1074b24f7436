"""A run in training: any number of SAEs on one pass over their rows.

Nothing random is drawn after the start: the order of rows is a function of the seed and the cursor, so a
checkpoint is the weights, the optimiser's state, the counters and the cursors.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from activation_store import Batches
from activation_store.batches import Cursor
from unbox.errors import UnboxError
from unbox.sae.cpu.malloc import reuse_freed_memory
from unbox.sae.cpu.threads import worker_threads
from unbox.sae.device_rows import DeviceBatches
from unbox.sae.distributed import agreed, check_replicas, local_device, team
from unbox.sae.evaluation_sums import EXTREME
from unbox.sae.initialization import SAMPLE, Start, check_finite, measure
from unbox.sae.latent_statistics import calibrated, latent_stats
from unbox.sae.learning_rate import schedule
from unbox.sae.model import SAE
from unbox.sae.plan import Budget, Plan, Spec
from unbox.sae.plan_checks import check_plan, check_trained
from unbox.sae.row_source import AwaitedBatches, RowBatches, RowSource, source_of
from unbox.sae.threshold_step import THRESHOLD_TRAINERS
from unbox.sae.train_step import LOOK, SAETrainer
from unbox.sae.training_figures import LOOKED_AT, first_moments, gradient_norm, held_out_figures
from unbox.sae.transcoder_step import TranscoderTrainer
from unbox.sae.warm_start import frozen_weights, scaled_weights
from unbox.stopping import Stopped, stop_asked

#: Seconds after which a process that waits for rows looks for a stop.
POLL = 0.1
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
    meters: NotRequired[dict[str, list[list[float]]]]
    """By SAE, each process's sums since the last line of metrics."""


@dataclass
class Lane:
    """One block: its rows, where it is in them, and the SAEs that learn from them."""

    rows: RowSource
    budget: Budget
    start: Start
    """What was measured of the rows before the first step."""
    fits: dict[str, SAETrainer]
    batches: RowBatches | DeviceBatches
    done: int = 0
    """Rows seen by each SAE, over all processes."""
    extreme: Tensor | int = 0
    """Rows of an extreme norm since the last line of metrics, in this process."""
    held_out: Tensor | None = None
    """(B, d): scaled rows kept from training, this process's share of those that lines of metrics look at."""
    looked_at: int = 0
    """How many those are, over all processes."""
    gradients: dict[str, float] = field(default_factory=dict)
    """Norm of the gradient of each SAE's last step, where it was measured."""

    @property
    def left(self) -> int:
        """Rows still to see."""
        return max(0, self.budget.tokens - self.done)

    @property
    def epochs(self) -> float:
        """How far it is: times that its rows were seen."""
        return self.done / len(self.rows)


class TrainingRun:
    """SAEs in training. `advance` takes one step of every SAE; `progress`, and the `state` of each of its
    `fits`, carry it over a stop."""

    def __init__(
        self,
        plan: Plan,
        sources: Mapping[str, RowSource],
        device: str | torch.device | None = None,
        starts: Mapping[str, Start] | None = None,
        initial: Mapping[str, SAE] | None = None,
        trainer: Callable[..., SAETrainer] | None = None,
    ) -> None:
        """`starts`: those of the blocks that a checkpoint holds; others are measured. `initial`: SAEs that
        it begins from in place of random directions, by the run's names. `trainer`: what makes each fit of
        its spec, plan, budget, start, device and team; None: by the spec's variant.

        Raises UnboxError for blocks without rows, and for rows that nothing can be fitted to."""
        self.plan, self.device, self._given_trainer = plan, local_device(device), trainer
        self.team = team(plan.share, self.device)
        check_plan(plan, sources, self.device, self.team.everyone.world)
        if self.device.type == "cpu":
            reuse_freed_memory()
        self.names = plan.names()
        self.rounds = 0
        self._sampled: tuple[str | None, Tensor] = None, torch.empty(0)
        blocks = dict.fromkeys(spec.block for spec in plan.saes)
        known = starts or {}
        self.lanes = {
            block: self._lane(block, source_of(sources, block), known.get(block)) for block in blocks
        }
        for name, one in self.fits.items():
            if initial and name in initial:
                self._begin_from(one, initial[name])
            one.broadcast()

    def _begin_from(self, one: SAETrainer, sae: SAE) -> None:
        """Begin the training of an SAE from another."""
        width, spec = len(one.start.centre), one.spec
        if self.plan.freeze_encoder:
            one.start_from(frozen_weights(sae, spec, width))
            if sae.threshold is not None:
                of_own = sae.threshold.ndim and self.team.latents.world > 1
                one.threshold = (sae.threshold[one.latents] if of_own else sae.threshold).to(self.device)
            return
        if one.variant.learns_threshold and sae.threshold is None:
            sae = sae.with_threshold(self.team.everyone.from_first(lambda: self._threshold(sae, spec)))
        one.start_from(scaled_weights(sae, width, one.start.scale))

    def _threshold(self, sae: SAE, spec: Spec) -> float:
        """What k latents of a row are over, on average."""
        rows = torch.from_numpy(
            np.array(self.lanes[spec.block].rows.sample(SAMPLE, self.plan.seed), np.float32)
        )
        found = calibrated(replace(sae.to("cpu"), k=spec.k), rows).threshold
        assert found is not None
        return float(found)

    @property
    def fits(self) -> dict[str, SAETrainer]:
        """Every SAE in training, by name."""
        return {name: fit for lane in self.lanes.values() for name, fit in lane.fits.items()}

    @property
    def left(self) -> int:
        """Rows still to see, over all blocks."""
        return sum(lane.left for lane in self.lanes.values())

    def look_at(self, held_out: Mapping[str, RowSource | None]) -> None:
        """Take figures on rows kept from training, by block, with each line of metrics."""
        for block, lane in self.lanes.items():
            if (rows := held_out.get(block)) is None:
                continue
            wanted = max(1, min(LOOKED_AT, max(lane.budget.log_every, lane.budget.batch_size) // 4))
            sample = np.asarray(rows.sample(wanted, self.plan.seed), np.float32)
            share = torch.from_numpy(sample[self.team.rows.rank :: self.team.rows.world].copy())
            lane.held_out, lane.looked_at = share.to(self.device) * lane.start.scale, len(sample)

    def advance(self, measured: bool = False) -> int:
        """One step of every SAE whose block has rows left, and is not ahead of another such block: what is
        read or generated for several blocks at once is used at once. Returns the rows taken, over all.
        `measured`: the norms of the gradients are taken for the line of metrics that comes next."""
        self.rounds += 1
        return sum(self._step(lane, measured) for lane in self._next_lanes())

    def await_rows(self) -> Stopped | None:
        """Return when every process has the rows of its next step, or was asked by a signal to stop: then the
        stop, the same for all. Rows that are read are there; those that are generated may take minutes."""
        of_lanes = [lane.batches for lane in self._next_lanes()]
        on_host = [each.host if isinstance(each, DeviceBatches) else each for each in of_lanes]
        awaited = [each for each in on_host if isinstance(each, AwaitedBatches)]
        while awaited:
            ready, asked = all(batches.ready(POLL) for batches in awaited), stop_asked()
            ready, number = agreed(ready, 0 if asked is None else asked.number)
            if number:
                return Stopped(number)
            if ready:
                return None
        return None

    def _next_lanes(self) -> list[Lane]:
        """The blocks that are not ahead of another one with rows left."""
        lanes = [lane for lane in self.lanes.values() if lane.left]
        return [lane for lane in lanes if lane.epochs == min(each.epochs for each in lanes)]

    @property
    def at_most(self) -> int:
        """Rows that the next step takes at most, over all blocks."""
        return sum(min(lane.left, lane.budget.batch_size) for lane in self.lanes.values())

    def close(self) -> None:
        """Stop reading ahead."""
        for lane in self.lanes.values():
            lane.batches.close()

    def every(self, name: str) -> int:
        """Steps between events that the plan gives in rows: `log_every`, `checkpoint_every`."""
        rows = max(getattr(lane.budget, name) for lane in self.lanes.values())
        return max(1, round(rows / self.plan.batch_size))

    def progress(self) -> Progress:
        """How far it is; every process must call it."""
        lanes: dict[str, LaneState] = {}
        for block, lane in self.lanes.items():
            lanes[block] = {"done": lane.done, "cursors": self.team.rows.collect(lane.batches.cursor)}
        own = {name: [*fit.sums.tolist(), float(fit.rows)] for name, fit in self.fits.items()}
        everyone = self.team.everyone.collect(own)
        return {
            "rounds": self.rounds, "lanes": lanes,
            "meters": {name: [one[name] for one in everyone] for name in own},
        }  # fmt: skip

    def resume(self, progress: Progress) -> None:
        """Go on from `progress`, in a new run of the same plan whose fits have been restored. Processes that
        share rows must be as many as they were."""
        self.rounds = progress["rounds"]
        for block, lane in self.lanes.items():
            place = progress["lanes"][block]
            if len(place["cursors"]) != self.team.rows.world:
                raise UnboxError(
                    f"the checkpoint is of {len(place['cursors'])} processes and these are "
                    f"{self.team.rows.world}: go on with as many"
                )
            lane.done = place["done"]
            lane.batches.close()
            lane.batches = self._batches(lane.rows, lane.budget, place["cursors"][self.team.rows.rank])
        for name, one in self.fits.items():
            meters = progress.get("meters", {}).get(name, [])
            if len(meters) == self.team.everyone.world:
                *sums, rows = meters[self.team.everyone.rank]
                one.sums.copy_(torch.tensor(sums, dtype=torch.float64))
                one.rows = int(rows)
            one.broadcast()

    def stop_wanted(self) -> Stopped | None:
        """The stop that a signal asked of any process: all are told after the same step, every sixteenth."""
        asked, everyone = stop_asked(), self.team.everyone
        if everyone.world == 1 or self.rounds % LOOK:
            return None if everyone.world > 1 else asked
        number = max(everyone.collect(0 if asked is None else asked.number))
        return Stopped(number) if number else None

    def metrics(self) -> list[dict[str, str | float | list[int]]]:
        """Figures of each SAE since they were last read; raises UnboxError if one is no longer finite, or not
        the same in all processes."""
        found: list[dict[str, str | float | list[int]]] = []
        for lane in self.lanes.values():
            extreme = torch.as_tensor(lane.extreme, device=self.device).clone()
            self.team.rows.sum_(extreme)
            lane.extreme = 0
            for name, fit in lane.fits.items():
                rows = fit.rows
                if self.team.everyone.world > 1:
                    check_replicas(fit.replicated(), self.team.everyone, name)
                figures = fit.read_meter()
                if not all(np.isfinite(value) for value in figures.values()):
                    raise UnboxError(
                        f"{name} is no longer finite after {lane.done:,} rows: "
                        f"rows hold NaN or infinity, or the learning rate {fit.peak:g} is too high"
                    )
                if rows:
                    rate = fit.peak * schedule(lane.budget, lane.done)
                    line: dict[str, str | float | list[int]] = {
                        "sae": name,
                        "tokens": lane.done,
                        "lr": rate,
                        **figures,
                    }
                    if name in lane.gradients:
                        line["grad_norm"] = lane.gradients.pop(name)
                    if lane.start.norm:
                        line["extreme_rows"] = int(extreme)
                    if lane.held_out is not None:
                        look = (
                            fit.held_out
                            if isinstance(fit, TranscoderTrainer)
                            else partial(held_out_figures, fit)
                        )
                        line |= look(lane.held_out, lane.looked_at)
                    found.append(line)
        return found

    def finished(self, names: Collection[str] | None = None) -> Iterator[SAE]:
        """The SAEs (of some `names`) as they stand: thresholds calibrated, statistics of their latents taken.

        Every process must run it through, and is given its share of them: the first, the one after `world`
        others, ... No process holds more than one whole SAE, on its CPU while parts come in.
        """
        everyone = self.team.everyone
        check_trained(self.plan, {name: one.steps for name, one in self.fits.items()})
        fits = [(name, one) for name, one in self.fits.items() if names is None or name in names]
        for start in range(0, len(fits), everyone.world):
            own = None
            for owner, (name, one) in enumerate(fits[start : start + everyone.world]):
                if self.team.latents.world > 1 or owner == everyone.rank:
                    own = one.sae(name, owner) or own
            if own is not None:
                yield self._with_statistics(own)

    def _with_statistics(self, sae: SAE) -> SAE:
        lane = self.lanes[sae.block]
        if self._sampled[0] != sae.block:  # SAEs of a block come one after the other
            rows = np.array(lane.rows.sample(STATS_ROWS, self.plan.seed + 1), np.float32)
            self._sampled = sae.block, torch.from_numpy(rows)
        sample = self._sampled[1]
        deviation = float((sample - sample.mean(0)).square().sum(1).mean().sqrt())
        sae = replace(sae.to(self.device), update_std=deviation)
        kind = lane.fits[sae.name].variant
        if kind.batchwise and sae.threshold is None:
            sae = calibrated(sae, sample)
        return replace(sae, stats=latent_stats(sae, sample.split(4096)))

    def _lane(self, block: str, rows: RowSource, start: Start | None) -> Lane:
        if not len(rows):
            raise UnboxError(f"there are no rows of '{block}' to train on")
        plan, budget = self.plan, self.plan.budget(len(rows))
        if start is None:
            start = self.team.everyone.from_first(
                # With a frozen encoder rows are not scaled: its biases would come back with other last bits.
                lambda: measure(
                    rows, plan.seed, plan.centre, plan.init, plan.scaled and not plan.freeze_encoder
                )
            )
        specs = {name: s for name, s in zip(self.names, plan.saes, strict=True) if s.block == block}
        fits = {
            n: self._trainer(s.variant)(s, plan, budget, start, self.device, self.team)
            for n, s in specs.items()
        }
        return Lane(rows, budget, start, fits, self._batches(rows, budget, None))

    def _trainer(self, variant: str) -> Callable[..., SAETrainer]:
        if self._given_trainer is not None:
            return self._given_trainer
        return THRESHOLD_TRAINERS.get(variant, SAETrainer)

    def _batches(self, rows: RowSource, budget: Budget, cursor: Cursor | None) -> RowBatches | DeviceBatches:
        made = rows.batches(
            max(1, budget.batch_size // self.team.rows.world),
            seed=self.plan.seed,
            # Ranks may hold slightly different shares of the rows, and a run that goes on may have left some
            # of its last batch; the count of tokens ends the run.
            epochs=-(-budget.tokens // len(rows)) + (self.team.rows.world > 1 or cursor is not None),
            rank=self.team.rows.rank,
            world=self.team.rows.world,
            cursor=cursor,
        )
        if self.device.type == "cuda" and isinstance(made, Batches):
            return DeviceBatches(made, self.device)
        return made

    def _step(self, lane: Lane, measured: bool) -> int:
        x, rows = self._next(lane)
        taken = len(x)
        if self.team.rows.world > 1:
            counts = torch.tensor([rows, taken])
            self.team.rows.sum_(counts)
            rows, taken = counts.tolist()
        if not rows:
            raise UnboxError(f"the rows ended {lane.left:,} short of the {lane.budget.tokens:,} asked for")
        factor = schedule(lane.budget, lane.done)
        for name, fit in lane.fits.items() if taken else ():
            before = first_moments(fit) if measured else {}
            fit.step(x, taken, factor)
            if measured:
                lane.gradients[name] = gradient_norm(fit, before)
        lane.done += rows
        if not lane.left:
            lane.batches.close()
        return rows

    def _next(self, lane: Lane) -> tuple[Tensor, int]:
        """This process's share of the next batch, scaled, on the device, without the rows that are left out;
        how many there were with them."""
        share = len(range(self.team.rows.rank, lane.left, self.team.rows.world))
        ended = np.zeros((0, lane.rows.width), np.float32)
        x = torch.as_tensor(next(iter(lane.batches), ended))[:share]
        scale = lane.start.scale
        with worker_threads() if self.device.type == "cpu" else nullcontext():
            if self.device.type == "cpu":
                check_finite(x)
            x = x.to(self.device, non_blocking=True)
            x = x if scale == 1 else x * scale
            if not (norm := lane.start.norm):
                return x, len(x)
            limit = norm * (EXTREME if self.plan.max_norm is None else self.plan.max_norm)
            extreme = torch.linalg.vector_norm(x, dim=1) > limit
            lane.extreme = lane.extreme + extreme.sum()
            return x if self.plan.max_norm is None else x[~extreme], len(x)
