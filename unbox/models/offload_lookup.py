"""What diffusers looks for again and again, looked for once a run: hooks that offload groups of layers.

A pipeline asks where it and its parts run some ten times a call, and each time diffusers goes through every
module of every part (3,900 in SDXL) for such a hook: 67 ms of a call on the host of an H100, as much as the
UNet's step takes (docs/gpu.md). A run neither adds nor removes any.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from diffusers.hooks import group_offloading
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

_LOOKUP = "_get_top_level_group_offload_hook"
OffloadHooks: TypeAlias = Mapping[int, Any]
"""By `id` of a part of a pipeline that runs; its pipeline keeps it alive."""
_FOUND: dict[int, Any] = {}


def offload_hooks(pipeline: DiffusionPipeline) -> OffloadHooks:
    """What diffusers finds for each part of a pipeline; nothing in versions that look elsewhere."""
    lookup: Callable[[torch.nn.Module], Any] | None = getattr(group_offloading, _LOOKUP, None)
    parts = [each for each in pipeline.components.values() if isinstance(each, torch.nn.Module)]
    return {} if lookup is None else {id(part): lookup(part) for part in parts}


@contextmanager
def looked_up_once(pipeline: DiffusionPipeline, known: OffloadHooks | None = None) -> Iterator[None]:
    """Inside, diffusers is told of the pipeline's parts what was found at the beginning, or is `known`: what
    `offload_hooks` found, for runs between which none are added."""
    lookup: Callable[[torch.nn.Module], Any] | None = getattr(group_offloading, _LOOKUP, None)
    if lookup is None:  # another version of diffusers, which may not need it
        yield
        return
    if not hasattr(lookup, "found"):
        lookup = _remembering(lookup)
        setattr(group_offloading, _LOOKUP, lookup)
    if known is None:
        known = offload_hooks(pipeline)
    mine = {key: hook for key, hook in known.items() if key not in _FOUND}
    _FOUND.update(mine)
    try:
        yield
    finally:
        for key in mine:
            _FOUND.pop(key, None)


def _remembering(lookup: Callable[[torch.nn.Module], Any]) -> Callable[[torch.nn.Module], Any]:
    def found(module: torch.nn.Module) -> Any:
        key = id(module)
        return _FOUND[key] if key in _FOUND else lookup(module)

    found.found = True  # type: ignore[attr-defined]
    return found
