"""How much memory a training step takes, found by running it on tensors that have shapes but no numbers.

Every allocation of a real step is made on fake tensors and counted while it lives: weights, activations,
gradients, optimizer. It needs neither the memory nor the device, and some seconds at SDXL's size.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


@dataclass(frozen=True)
class StepMemory:
    """Bytes of tensors: what stands between steps (weights, optimizer), and the most while one runs."""

    standing: int
    peak: int


def step_memory(module: nn.Module, make: Callable[[], Callable[[], None]]) -> StepMemory:
    """Run two steps of what `make()` gives on fake tensors: the second has the optimizer's states that the
    first one made. `module` is all networks, on the meta device; they have fake weights afterwards."""
    count = _Allocations()
    fakes: dict[int, nn.Parameter] = {}  # weights that several modules share stay shared
    with FakeTensorMode(allow_non_fake_inputs=True), count:
        for part in module.modules():
            for name, p in part._parameters.items():
                if p is not None and id(p) not in fakes:
                    fakes[id(p)] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype), p.requires_grad)
                if p is not None:
                    part._parameters[name] = fakes[id(p)]
        step = make()
        step()
        standing = count.peak = count.now
        step()
    return StepMemory(standing, count.peak)


@dataclass
class _Allocations(TorchDispatchMode):
    """Bytes of the storages that live, each counted once."""

    now: int = 0
    peak: int = 0
    known: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # torch's own
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, out)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        size = storage.nbytes()
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
