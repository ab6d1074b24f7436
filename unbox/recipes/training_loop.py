"""The loop that every recipe shares: seeded steps, cosine rate, averaged weights, checkpoints that resume.

A step's randomness is derived from (seed, step), so that a resumed run draws what an uninterrupted
one would have drawn and no generator state has to be saved.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from tqdm import tqdm

from activation_store.files import publish_folder
from unbox.sae.safetensors_io import read_tensors, write_tensors
from unbox.stopping import stop_asked, unit
from unbox.text_files import read_json_file
from unbox.validation import Amount, Count, NotNegative, Positive, Real, Share, Whole, parsed, validated


@validated
class StagePlan:
    """How long and how fast a stage trains."""

    steps: Count
    rate: Positive
    warmup: Count = 100
    ema: Share = 0.998
    clip: Positive = 1.0
    decay_from: Annotated[Real, Ge(0), Lt(1)] = 0.0
    """Share of the steps after which the learning rate starts its cosine fall to zero."""
    seed: Annotated[Whole, Ge(0), Lt(2**43)] = 0
    """Each step draws by one of its own, a million apart for each seed."""
    minutes: Positive | None = None
    """Stop early, as if `steps` had been reached, after this much training; the rate follows the clock."""

    def progress(self, step: int, seconds: float) -> float:
        """Share of the stage that is done, from 0 to 1 or over."""
        return max(step / self.steps, 0.0 if self.minutes is None else seconds / (60 * self.minutes))


@validated
class StageState:
    """`state.json` of a checkpoint."""

    step: Amount
    seconds: NotNegative
    done: bool

    @classmethod
    def read(cls, folder: Path) -> "StageState":
        """Of the checkpoint in a folder. Raises UnboxError for a file that is none."""
        path = folder / "state.json"
        return parsed(cls, read_json_file(path), str(path))


class Optimizer:
    """Muon for the matrices (convolutions flattened), Adam for the rest.

    Muon orthogonalises each momentum matrix (Jordan et al. 2024); `match_rms_adamw` lets both share a rate.
    """

    def __init__(self, module: nn.Module, rate: float, matrices: bool = True) -> None:
        parameters = [p for p in module.parameters() if p.requires_grad]
        self.hidden = [p for p in parameters if matrices and p.ndim >= 2]
        # Views share storage with what they flatten, so a step on the view is a step on the weight.
        self.views = [nn.Parameter(p.detach().flatten(1)) for p in self.hidden]
        rest = [p for p in parameters if not (matrices and p.ndim >= 2)]
        self.parts: list[torch.optim.Optimizer] = [torch.optim.Adam(rest, lr=rate, betas=(0.9, 0.99))]
        if self.views:
            self.parts.append(
                torch.optim.Muon(self.views, lr=rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
            )
        self.rate = rate

    def step(self, scale: float) -> None:
        for view, parameter in zip(self.views, self.hidden, strict=True):
            view.grad = None if parameter.grad is None else parameter.grad.flatten(1)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.rate * scale
            part.step()

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's state, flat."""
        return {
            f"{i}.{j}.{name}": torch.as_tensor(value).contiguous()
            for i, part in enumerate(self.parts)
            for j, state in part.state_dict()["state"].items()
            for name, value in state.items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        for i, part in enumerate(self.parts):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                which, j, name = key.split(".", 2)
                if int(which) == i:
                    state.setdefault(int(j), {})[name] = value
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})


def finished(name: str, folder: Path) -> bool:
    """Whether a stage has run to its end in `folder`, so that it needs no data to be loaded."""
    here = Path(folder) / name
    return (here / "state.json").exists() and StageState.read(here).done


def rate_at(plan: StagePlan, progress: float, step: int) -> float:
    """Learning-rate factor: linear warm-up, level, cosine to zero."""
    warm = min(1.0, (step + 1) / plan.warmup)
    fall = max(0.0, progress - plan.decay_from) / (1 - plan.decay_from)
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, fall)))


@dataclass
class _Run:
    """What a checkpoint holds: weights, their average, the optimizer, steps and seconds so far."""

    module: nn.Module
    optimizer: Optimizer
    ema: dict[str, Tensor]
    step: int = 0
    spent: float = 0.0

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Draw the averaged weights towards the present ones."""
        current, names = self.module.state_dict(), [k for k, v in self.ema.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.ema[k] for k in names], [current[k] for k in names], 1 - decay)

    def save(self, here: Path, done: bool = False) -> None:
        """Write it whole, in place of the last; a finished run needs its averaged weights only."""
        with publish_folder(here, replace=True) as new:
            write_tensors(new / "ema.safetensors", self.ema)
            if not done:
                write_tensors(new / "weights.safetensors", self.module.state_dict())
                write_tensors(new / "optimizer.safetensors", self.optimizer.tensors())
            state = {"step": self.step, "seconds": self.spent, "done": done}
            (new / "state.json").write_text(json.dumps(state))

    def restore(self, here: Path) -> bool:
        """Go on from the checkpoint in `here`, if there is one. True when that run had finished."""
        if not (here / "state.json").exists():
            return False
        state = StageState.read(here)
        self.ema, self.step, self.spent = read_tensors(here / "ema.safetensors"), state.step, state.seconds
        if not state.done:
            self.module.load_state_dict(read_tensors(here / "weights.safetensors"))
            self.optimizer.load(read_tensors(here / "optimizer.safetensors"))
        return state.done


def train(
    name: str,
    module: nn.Module,
    loss: Callable[[int, np.random.Generator, float], Tensor],
    plan: StagePlan,
    folder: Path,
    *,
    matrices: bool = True,
    save_every: float = 120.0,
) -> nn.Module:
    """Train `module` in place by `loss(step, rng, progress)` and leave it holding its averaged weights.

    Writes a checkpoint to `folder/name` every `save_every` seconds and before it is stopped (by a signal of
    `unbox.stopping`), and resumes from one that lies there; a finished stage is loaded and returned at once.
    """
    here = Path(folder) / name
    ema = {key: value.detach().clone() for key, value in module.state_dict().items()}
    run = _Run(module, Optimizer(module, plan.rate, matrices), ema)
    done = run.restore(here)
    started, saved, mean = time.monotonic() - run.spent, time.monotonic(), math.nan
    bar = tqdm(total=plan.steps, initial=run.step, desc=name, unit="step", mininterval=5, disable=done)
    with bar, unit():
        while not done:
            run.spent = time.monotonic() - started
            if (stop := stop_asked()) is not None:
                run.save(here)
                raise stop
            progress = plan.progress(run.step, run.spent)
            done = progress >= 1
            if done:
                run.save(here, done)
                break
            torch.manual_seed(plan.seed * 1_000_003 + run.step)
            value = loss(run.step, np.random.default_rng([plan.seed, run.step]), progress)
            value.backward()
            nn.utils.clip_grad_norm_(module.parameters(), plan.clip)
            run.optimizer.step(rate_at(plan, progress, run.step))
            module.zero_grad(set_to_none=True)
            run.average(min(plan.ema, (run.step + 1) / (run.step + 10)))
            mean = value.item() if math.isnan(mean) else 0.99 * mean + 0.01 * value.item()
            run.step += 1
            bar.update()
            if run.step % 20 == 0:
                bar.set_postfix(loss=f"{mean:.4f}", of_minutes=f"{progress:.0%}")
            if time.monotonic() - saved > save_every:
                run.save(here)
                saved = time.monotonic()
    module.load_state_dict(run.ema)
    return module
