"""What diffusers looks for again and again, looked for once a run: hooks that offload groups of layers.

A pipeline asks where it and its parts run some ten times a call, and each time diffusers goes through every
module of every part (3,900 in SDXL) for such a hook: 67 ms of a call on the host of an H100, as much as the
UNet's step takes (docs/gpu.md). A run neither adds nor removes any.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.hooks import group_offloading
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

_LOOKUP = "_get_top_level_group_offload_hook"
_FOUND: dict[int, Any] = {}
"""By `id` of a part of a pipeline that runs; its pipeline keeps it alive."""


@contextmanager
def looked_up_once(pipeline: DiffusionPipeline) -> Iterator[None]:
    """Inside, diffusers is told of the pipeline's parts what was found at the beginning."""
    lookup: Callable[[torch.nn.Module], Any] | None = getattr(group_offloading, _LOOKUP, None)
    if lookup is None:  # another version of diffusers, which may not need it
        yield
        return
    if not hasattr(lookup, "found"):
        lookup = _remembering(lookup)
        setattr(group_offloading, _LOOKUP, lookup)
    parts = [each for each in pipeline.components.values() if isinstance(each, torch.nn.Module)]
    mine = {id(part): lookup(part) for part in parts if id(part) not in _FOUND}
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
