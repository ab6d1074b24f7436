"""What `generate(edits=..., hooks=...)` accepts: what attaches to a model and comes off again."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import singledispatch
from typing import Protocol, Self, runtime_checkable

import torch

from unbox.edit import Edit, Edits
from unbox.errors import UnboxError
from unbox.models.clock import Watched
from unbox.plugins import load_plugins


class Hookable(Watched, Protocol):
    """What hooks need of a model: its modules by name, and the clock."""

    @property
    def unet(self) -> torch.nn.Module: ...

    @property
    def device(self) -> torch.device: ...

    def block(self, name: str) -> torch.nn.Module:
        """The transformer block of a short name."""
        ...


@runtime_checkable
class Hook(Protocol):
    """An object that observes or changes what a model computes."""

    def attach(self, model: Hookable, rows: Sequence[int] | None) -> AbstractContextManager[object]:
        """Attach to `model` until the context ends; `rows`: image indices it applies to, None for all."""
        ...


@runtime_checkable
class ImageHook(Hook, Protocol):
    """A hook for some images of a run; those of several images attach as one."""

    @classmethod
    def together(cls, hooks: Sequence[tuple[Self, Sequence[int] | None]]) -> Hook:
        """One hook for all, each with its images."""
        ...


Attachable = Hook | Edit | Edits


@singledispatch
def as_hook(value: Attachable) -> Hook:
    """The hook of a value; rooms above register their own types. UnboxError for types that have none."""
    if isinstance(value, Hook):
        return value
    load_plugins("hooks")
    convert = as_hook.dispatch(type(value))
    if convert is not as_hook.dispatch(object):
        return convert(value)
    raise UnboxError(
        f"a {type(value).__name__} cannot be attached to a run; pass an Edit, Edits, None, "
        "or an object with attach(model, rows)"
    )
