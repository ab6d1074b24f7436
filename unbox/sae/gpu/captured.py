"""A step of a GPU recorded once as a CUDA graph and replayed: one launch instead of some forty.

What differs between steps lies in tensors that stay where they are (the rows, the rate); what changes shape
or is not a tensor is the key, and a new key is captured anew. All graphs of a process share their temporary
memory.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

#: Runs of a step before it is captured, in which kernels are compiled and libraries choose theirs.
WARM = 3


@dataclass
class SharedMemory:
    """What all captured steps of a process have in common: the pool of their temporaries, and their input."""

    anchors: dict[torch.device, torch.cuda.CUDAGraph] = field(default_factory=dict)
    """A graph of each GPU that lives as long as the process: a pool without any is given up."""
    inputs: dict[Hashable, Tensor] = field(default_factory=dict)

    def input(self, x: Tensor) -> Tensor:
        """The tensor that graphs read rows of this shape from, holding x."""
        key = (x.shape, x.dtype, x.device)
        if key not in self.inputs:
            self.inputs[key] = torch.empty_like(x)
        if x is not self.inputs[key]:
            self.inputs[key].copy_(x)
        return self.inputs[key]


SHARED = SharedMemory()


@dataclass
class CapturedStep:
    """Replays `step(x)`, which must neither wait for the device nor give anything back."""

    step: Callable[[Tensor, int], None]
    graphs: dict[Hashable, torch.cuda.CUDAGraph] = field(default_factory=dict)
    ran: dict[Hashable, int] = field(default_factory=dict)

    def __call__(self, x: Tensor, rows: int) -> None:
        """Take a step of x (B, d), this process's share of `rows` rows."""
        static, full = SHARED.input(x), (x.shape, x.dtype, rows)
        if full in self.graphs:
            self.graphs[full].replay()
            return
        self.ran[full] = self.ran.get(full, 0) + 1
        if self.ran[full] <= WARM:
            self.step(static, rows)
            return
        self.graphs[full] = self._capture(static, rows)
        self.graphs[full].replay()

    def _capture(self, x: Tensor, rows: int) -> torch.cuda.CUDAGraph:
        if x.device not in SHARED.anchors:
            anchor = SHARED.anchors[x.device] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(anchor):
                torch.zeros(1, device=x.device)
        graph = torch.cuda.CUDAGraph()
        # Other threads may take memory of the device meanwhile: the one that sends rows does.
        with torch.cuda.graph(graph, pool=SHARED.anchors[x.device].pool(), capture_error_mode="thread_local"):
            self.step(x, rows)
        return graph
