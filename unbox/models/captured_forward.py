"""A module's forward recorded once as a CUDA graph and replayed: one launch instead of thousands.

A UNet of SDXL launches some three thousand kernels, which a host hands out in fifty to a hundred
milliseconds; an H100 runs them in ten at one image of 512 pixels.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

#: Graphs of one module that are kept: each holds what its forward computes in between.
KEPT = 4


@dataclass(frozen=True, eq=False)
class _Recorded:
    """A graph, the tensors that it reads and those that it leaves its output in."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    output: object


@dataclass(eq=False)
class CapturedForward:
    """Replays a module's forward on a GPU. Not for several threads.

    What the forward does beside computing with tensors on the device (hooks of parts inside, values of
    Python) is done while it is recorded, and never again: what changes must lie in tensors that stay where
    they are, or in the key. The first call of a kind runs as it is written, the second is recorded.
    """

    module: torch.nn.Module
    _graphs: "OrderedDict[Hashable, _Recorded | None]" = field(default_factory=OrderedDict)

    @contextmanager
    def on(self, key: Hashable = None) -> Iterator[None]:
        """Inside, calls of the module replay what was recorded for this key and inputs of these shapes."""
        own = vars(self.module).get("forward")
        forward: Callable[..., object] = self.module.forward
        self.module.forward = lambda *args, **kwargs: self._call(forward, key, args, kwargs)
        try:
            yield
        finally:
            if own is None:
                del self.module.forward
            else:
                self.module.forward = own

    def _call(
        self,
        forward: Callable[..., object],
        key: Hashable,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if not given or not all(tensor.is_cuda for tensor in given):
            return forward(*args, **kwargs)
        kinds = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves)
        full = (key, repr(spec), kinds)
        if full not in self._graphs:
            self._graphs[full] = None
            return forward(*args, **kwargs)
        recorded = self._graphs[full]
        if recorded is None:
            if not stays(self.module):
                return forward(*args, **kwargs)
            recorded = self._graphs[full] = self._record(forward, leaves, spec)
        self._graphs.move_to_end(full)
        while len(self._graphs) > KEPT:
            self._graphs.popitem(last=False)
        for own, tensor in zip(recorded.inputs, given, strict=True):
            own.copy_(tensor)
        recorded.graph.replay()
        # Another graph of the pool may write over what this one left.
        return pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, recorded.output)

    def _record(
        self, forward: Callable[..., object], leaves: list[object], spec: pytree.TreeSpec
    ) -> _Recorded:
        inputs = [leaf.clone() for leaf in leaves if isinstance(leaf, Tensor)]
        own = iter(inputs)
        args, kwargs = pytree.tree_unflatten(
            [next(own) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec
        )
        graph, others = torch.cuda.CUDAGraph(), [each for each in self._graphs.values() if each is not None]
        # Graphs of one module never run side by side, and share what they compute in. Other threads may use
        # the device meanwhile.
        pool = others[-1].graph.pool() if others else None
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = forward(*args, **kwargs)
        return _Recorded(graph, inputs, output)


def stays(module: torch.nn.Module) -> bool:
    """Whether a module's weights stay where a graph has read them, and its forward is as it was written:
    offloading moves the ones between calls, and what is compiled may be recorded already."""
    named = ("_hf_hook", "_diffusers_hook")
    return not any(
        any(hasattr(each, name) for name in named) or each._compiled_call_impl is not None
        for each in module.modules()
    )
