"""Who takes part in a training: networks that learn, each by its own optimizer, and frozen ones."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unbox.training.sharding import sharded_like

OptimizerMaker = Callable[[nn.Module, float], list[torch.optim.Optimizer]]


@dataclass
class Role:
    """A network that learns: its optimizers, made when the run starts, and its averaged weights if it has
    any.

    Only what has `requires_grad` is trained, averaged and kept in checkpoints: of a network with adapters the
    adapters alone.
    """

    module: nn.Module
    optimizers: OptimizerMaker
    rate: float
    ema: float | None = None
    """Decay of the averaged weights; None: none are kept."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    sharded: bool = False
    """Whether several processes share weights, gradients and optimizer (FSDP) instead of a copy in each."""
    parts: list[torch.optim.Optimizer] = field(default_factory=list)
    average: dict[str, Tensor] = field(default_factory=dict)
    model: nn.Module = field(init=False)
    """What is called: the module, or the module prepared for several processes."""

    def __post_init__(self) -> None:
        self.model = self.module

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def start(self) -> None:
        """Make the optimizers and the averaged weights."""
        self.parts = self.optimizers(self.module, self.rate)
        if self.ema is not None:
            self.average = {name: p.detach().float().clone() for name, p in self.trained().items()}

    @torch.no_grad()
    def update(self, scale: float, step: int) -> Tensor:
        """One step at `scale` of the rate; clears the gradients. Gives the gradient's norm (no sync)."""
        norm = nn.utils.clip_grad_norm_(list(self.trained().values()), self.clip)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.rate * scale
            part.step()
        self.module.zero_grad(set_to_none=True)
        if self.ema is not None:
            decay = min(self.ema, (step + 1) / (step + 10))
            now = [p.detach().float() for p in self.trained().values()]
            torch._foreach_lerp_(list(self.average.values()), now, 1 - decay)
        return norm

    @torch.no_grad()
    def take_average(self) -> None:
        """Let the module hold its averaged weights."""
        for name, p in self.trained().items():
            if name in self.average:
                p.copy_(self.average[name])

    def last(self) -> dict[str, Tensor]:
        """What a finished run leaves: the averaged weights, or the weights where there are none."""
        last = self.average or {name: p.detach() for name, p in self.trained().items()}
        return {f"average.{name}": value.contiguous() for name, value in last.items()}

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, flat: weights, their average, the optimizers'."""
        state: dict[str, Tensor] = {f"weights.{k}": v.detach() for k, v in self.trained().items()}
        state |= {f"average.{k}": v for k, v in self.average.items()}
        for i, part in enumerate(self.parts):
            for j, slots in part.state_dict()["state"].items():
                state |= {f"optimizer.{i}.{j}.{k}": torch.as_tensor(v) for k, v in slots.items()}
        return {name: tensor.contiguous() for name, tensor in state.items()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up a state that `tensors` gave."""
        for name, p in self.trained().items():
            p.copy_(sharded_like(tensors[f"weights.{name}"], p))
        for name, average in self.average.items():
            average.copy_(sharded_like(tensors[f"average.{name}"], average))
        for i, part in enumerate(self.parts):
            state: dict[int, dict[str, Tensor]] = {}
            each = [p for group in part.param_groups for p in group["params"]]
            for key, value in tensors.items():
                if key.startswith(f"optimizer.{i}."):
                    j, slot = key.split(".", 3)[2:]
                    state.setdefault(int(j), {})[slot] = sharded_like(value, each[int(j)])
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})
