"""The training loop: seeded steps, rate by steps, averaged weights, checkpoints that resume.

A step's randomness is a generator seeded by (seed, step, process): a resumed run draws what an uninterrupted
one would have drawn, and no generator's state has to be saved. `accelerate` brings devices, bfloat16,
accumulation and several processes.
"""

import json
import math
import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from accelerate import Accelerator
from annotated_types import Ge, Lt
from torch import Tensor, nn
from tqdm import tqdm

from activation_store.files import publish_folder
from unbox.sae.safetensors_io import read_tensors, write_tensors
from unbox.stopping import Stopped, stop_asked, unit
from unbox.text_files import read_json_file
from unbox.training.roles import Role
from unbox.training.sharding import shard_module, sharded_like, whole
from unbox.validation import Amount, Count, JSONObject, Positive, Real, Whole, parsed, validated

#: The steps, counted from where a process begins, between which a run's pace is measured, where its length is
#: given in minutes.
MEASURED_FROM, MEASURED_TO = 10, 40
#: Steps between two lines of losses.
LOGGED = 50
#: What is told of a run as it goes: steps done, and the moving mean of each role's loss.
Log = Callable[[int, Mapping[str, float]], None]
#: Several processes ask each other once in so many steps whether to stop.
AGREED = 5


@validated
class TrainingPlan:
    """How long and how fast a stage trains. The rate follows steps, never the clock."""

    steps: Count
    warmup: Count = 100
    decay_from: Annotated[Real, Ge(0), Lt(1)] = 0.0
    """Share of the steps after which the learning rate starts its cosine fall to zero."""
    seed: Annotated[Whole, Ge(0), Lt(2**31)] = 0
    accumulate: Count = 1
    """Batches whose gradients make one step."""
    save_seconds: Positive = 300.0
    """Seconds between checkpoints."""
    minutes: Positive | None = None
    """Choose the number of steps so that the run takes about so long: from the time of the first ones,
    once; the number is kept in the checkpoints, and the rate follows steps as ever."""

    def rate(self, step: int) -> float:
        """Learning-rate factor: linear warm-up, level, cosine to zero."""
        fall = max(0.0, step / self.steps - self.decay_from) / (1 - self.decay_from)
        return min(1.0, (step + 1) / self.warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, fall)))


@validated
class CheckpointState:
    """`state.json` of a checkpoint."""

    step: Amount
    done: bool
    steps: Count
    """Length of the run."""
    losses: JSONObject = field(default_factory=dict)
    """Moving mean of each role's loss."""
    precision: Literal["no", "fp16", "bf16", "fp8"] | None = None
    """Mixed precision of the losses, as `accelerate` names it; None: of a version that did not say."""

    @classmethod
    def read(cls, folder: Path) -> "CheckpointState":
        """Of the checkpoint in a folder. Raises UnboxError for a file that is none."""
        path = folder / "state.json"
        return parsed(cls, read_json_file(path), str(path))


@dataclass(frozen=True)
class Step:
    """What an objective is given: where the run is, and the generator of this step's randomness."""

    number: int
    progress: float
    """Share of the run that is done, 0 to 1."""
    generator: torch.Generator
    part: int = 0
    """Which of the batches whose gradients are added up for one step."""


@dataclass(frozen=True)
class Turn:
    """One role's update: its loss, computed after the turns before it, once in `every` steps."""

    role: str
    loss: Callable[[Step], Tensor]
    every: int = 1


def finished(folder: Path) -> bool:
    """Whether the run in `folder` has reached its end, so that it needs no data."""
    return (folder / "state.json").exists() and CheckpointState.read(folder).done


def load_trained(modules: Mapping[str, nn.Module], folder: Path) -> None:
    """Let modules hold what a finished run in `folder` left them with, by the names of its roles."""
    with torch.no_grad():
        for name, module in modules.items():
            parameters = dict(module.named_parameters())
            for key, value in read_tensors(folder / f"{name}.safetensors").items():
                parameters[key.removeprefix("average.")].copy_(value)


def train(
    roles: Mapping[str, Role],
    turns: Sequence[Turn],
    plan: TrainingPlan,
    folder: Path,
    accelerator: Accelerator,
    enough: Callable[[int], bool] | None = None,
    log: Log | None = None,
) -> None:
    """Train the roles in place, turn by turn, and leave them holding their averaged weights; `enough(step)`
    may end a run before its last step. `log(steps, losses)` is told the moving means of the losses once in
    `LOGGED` steps, in the first process.

    Writes a checkpoint to `folder` every `save_seconds` and before it is stopped (by a signal of
    `unbox.stopping`), and resumes from one that lies there; a finished run is loaded and returned at once.
    """
    state = _begin(roles, folder, accelerator)
    # The length that a run by minutes begins with is a bound: one that was stopped before its pace was
    # measured has no other yet.
    measuring = plan.minutes is not None and state.steps in (0, plan.steps)
    step, plan = state.step, replace(plan, steps=state.steps or plan.steps)
    measured = (step + MEASURED_FROM, step + MEASURED_TO)
    generator = torch.Generator(accelerator.device)
    saved = started = time.monotonic()
    means = {name: torch.tensor(value, device=accelerator.device) for name, value in state.losses.items()}
    bar = tqdm(
        total=plan.steps, initial=step, desc=folder.name, unit="step", mininterval=10,
        disable=state.done or not accelerator.is_main_process,
    )  # fmt: skip
    with bar, unit():
        while not state.done:
            if _stopping(step, accelerator):
                _save(roles, folder, plan, step, False, accelerator, means)
                raise stop_asked() or Stopped(signal.SIGTERM)
            if step >= plan.steps or (enough is not None and enough(step)):
                _save(roles, folder, plan, step, True, accelerator, means)
                break
            if measuring and step in measured:
                _wait(accelerator)
                if step == measured[1]:
                    each = (time.monotonic() - started) / (MEASURED_TO - MEASURED_FROM)
                    plan = replace(plan, steps=max(step + 1, int(60 * (plan.minutes or 0) / each)))
                    bar.total, measuring = plan.steps, False
                started = time.monotonic()
            _one_step(roles, turns, plan, step, generator, accelerator, means)
            step += 1
            bar.update()
            if step % LOGGED == 0 or step == plan.steps:  # reading a loss waits for the device
                losses = {name: float(value) for name, value in means.items()}
                bar.set_postfix({name: f"{value:.4f}" for name, value in losses.items()}, refresh=False)
                if log is not None and accelerator.is_main_process:
                    log(step, losses)
            if time.monotonic() - saved > plan.save_seconds:
                _save(roles, folder, plan, step, False, accelerator, means)
                saved = time.monotonic()
    for role in roles.values():
        role.take_average()


def _stopping(step: int, accelerator: Accelerator) -> bool:
    """Whether a stop was asked of any process; several agree about it, once in `AGREED` steps."""
    asked = stop_asked() is not None
    if accelerator.num_processes == 1:
        return asked
    if step % AGREED:
        return False
    flag = torch.tensor([float(asked)], device=accelerator.device)
    return float(accelerator.reduce(flag, "sum")) > 0  # type: ignore[arg-type]


def _wait(accelerator: Accelerator) -> None:
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class _Beginning:
    step: int = 0
    done: bool = False
    steps: int = 0
    """Length of the run as its checkpoint has it; 0: there is none."""
    losses: Mapping[str, float] = field(default_factory=dict)


def _begin(roles: Mapping[str, Role], folder: Path, accelerator: Accelerator) -> _Beginning:
    """Make optimizers, prepare the modules, take up the checkpoint if there is one."""
    for role in roles.values():
        role.module.to(accelerator.device)
        if role.sharded:
            shard_module(role.module, accelerator.device)
        role.start()
        several = accelerator.num_processes > 1 and not role.sharded
        role.model = accelerator.prepare_model(role.module) if several else role.module
    if not (folder / "state.json").exists():
        return _Beginning()
    state = CheckpointState.read(folder)
    if not state.done and state.precision not in (None, accelerator.mixed_precision):
        warnings.warn(
            f"{folder} began with mixed precision {state.precision} and goes on with "
            f"{accelerator.mixed_precision}: for a run of one precision go on where it began, or begin again "
            "in another folder",
            stacklevel=3,
        )
    for name, role in roles.items():
        tensors = read_tensors(folder / f"{name}.safetensors")
        if state.done:
            role.average = {k.removeprefix("average."): v for k, v in tensors.items()}
            role.average = {k: sharded_like(v, role.trained()[k]) for k, v in role.average.items()}
        else:
            role.load(tensors)
    return _Beginning(state.step, state.done, state.steps, state.losses)


def _one_step(
    roles: Mapping[str, Role],
    turns: Sequence[Turn],
    plan: TrainingPlan,
    step: int,
    generator: torch.Generator,
    accelerator: Accelerator,
    means: dict[str, Tensor],
) -> None:
    for place, turn in enumerate(turns):
        if step % turn.every:
            continue
        role, draws = roles[turn.role], len(turns) * plan.accumulate * accelerator.num_processes
        for part in range(plan.accumulate):
            draw = ((place * plan.accumulate + part) * accelerator.num_processes) + accelerator.process_index
            generator.manual_seed((plan.seed * 1_000_003 + step) * max(64, draws) + draw)
            last = part == plan.accumulate - 1
            with nullcontext() if last or role.sharded else accelerator.no_sync(role.model):
                with accelerator.autocast():
                    loss = turn.loss(Step(step, step / plan.steps, generator, part)) / plan.accumulate
                accelerator.backward(loss)
        role.update(plan.rate(step), step)
        for other in roles.values():  # what this loss left in others' parameters
            if other is not role:
                other.module.zero_grad(set_to_none=True)
        value = loss.detach().float() * plan.accumulate
        means[turn.role] = means[turn.role].lerp(value, 0.02) if turn.role in means else value


def _save(
    roles: Mapping[str, Role],
    folder: Path,
    plan: TrainingPlan,
    step: int,
    done: bool,
    accelerator: Accelerator,
    means: Mapping[str, Tensor],
) -> None:
    """Write it whole, in place of the last; a finished run needs its averaged weights (or weights) only."""
    first = accelerator.is_main_process
    with publish_folder(folder, replace=True) if first else nullcontext(folder) as new:
        for name, role in roles.items():
            if not (first or role.sharded):
                continue
            tensors = role.last() if done else role.tensors()
            on_cpu = {key: whole(value).cpu() for key, value in tensors.items()}  # shards meet, one by one
            if first:
                write_tensors(new / f"{name}.safetensors", on_cpu)
        if first:
            state = {"step": step, "done": done, "steps": plan.steps}
            state["precision"] = accelerator.mixed_precision
            losses = {name: float(value) for name, value in means.items()}
            (new / "state.json").write_text(json.dumps({**state, "losses": losses}))
    accelerator.wait_for_everyone()
