"""Hooks on transformer blocks, of a UNet that runs as it is written and of one compiled as a whole.

What is compiled ignores hooks that are added to it later. `compile_whole` therefore leaves an operator at the
end of each block which the compiler does not look into: it calls what is attached when it runs, by the
clock's step of then, and copies the block's output where nothing is. CUDA graphs are cut there.
"""

from collections.abc import Callable
from itertools import count
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor

from unbox.errors import UnboxError
from unbox.models.sites import block_sites

#: As torch's forward hooks with keyword arguments: (block, positional, keyword arguments, output) -> another
#: output, or None.
BlockHook = Callable[..., Any]

_NUMBERS = count()


class _HookedBlock:
    """The hooks of one block of a compiled UNet."""

    def __init__(self, block: torch.nn.Module) -> None:
        self.number = next(_NUMBERS)
        self.hooks: dict[int, BlockHook] = {}
        block.register_forward_hook(self._end, with_kwargs=True)
        _BY_NUMBER[self.number] = self

    def _end(self, block: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """What is compiled."""
        hidden = args[0] if args else kwargs["hidden_states"]
        made = torch.ops.unbox.block_end(hidden, output[0], self.number)
        return (made, *output[1:]) if isinstance(output, tuple) else type(output)(sample=made)


_HOOKED: "WeakKeyDictionary[torch.nn.Module, _HookedBlock]" = WeakKeyDictionary()
_BY_NUMBER: "WeakValueDictionary[int, _HookedBlock]" = WeakValueDictionary()


@torch.library.custom_op("unbox::block_end", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _block_end(hidden: Tensor, output: Tensor, number: int) -> Tensor:
    """What is attached to a block, applied to its output; a new tensor."""
    result = output
    for hook in list(_BY_NUMBER[number].hooks.values()):
        changed = hook(None, (hidden,), {}, (result,))
        result = result if changed is None else changed[0]
    return torch.empty_like(output).copy_(result)


@_block_end.register_fake
def _(hidden: Tensor, output: Tensor, number: int) -> Tensor:
    return torch.empty_like(output)


class Handle(Protocol):
    """Takes a hook off, as torch's handles do."""

    def remove(self) -> None:
        """Take it off."""
        ...


class _Handle:
    def __init__(self, hooks: dict[int, BlockHook], hook: BlockHook) -> None:
        self._hooks, self._key = hooks, id(self)
        hooks[self._key] = hook

    def remove(self) -> None:
        """Take it off."""
        self._hooks.pop(self._key, None)


def hook_block(block: torch.nn.Module, hook: BlockHook) -> Handle:
    """Add a forward hook with keyword arguments to a transformer block; hooks act in the order they came."""
    if (hooked := _HOOKED.get(block)) is not None:
        return _Handle(hooked.hooks, hook)
    return block.register_forward_hook(hook, with_kwargs=True)


def shows_block(block: torch.nn.Module) -> bool:
    """Whether a block is of a UNet compiled by `compile_whole`, so that hooks on it act all the same."""
    return block in _HOOKED


def compiled_whole(network: torch.nn.Module) -> bool:
    """Whether a network was compiled by `compile_whole`."""
    return bool(_HOOKED) and any(shows_block(module) for module in network.modules())


def compile_whole(unet: torch.nn.Module, **options: Any) -> None:
    """Compile a UNet as a whole, its blocks still open to edits and recording of updates, inputs and outputs.

    `options`: of `torch.compile`. Raises UnboxError for one that is compiled already, or whose layers are
    moved one by one (sequential offload).
    """
    if hasattr(unet.forward, "_torchdynamo_orig_callable") or hasattr(unet, "_orig_mod"):
        raise UnboxError("this UNet is compiled already")
    if any(hasattr(module, "_hf_hook") for module in unet.modules() if module is not unet):
        raise UnboxError(
            "offload 'sequential' moves every layer when it is needed, which a compiled UNet cannot: take "
            "offload 'model' (--offload model), or do not compile"
        )
    for site in block_sites(unet).values():
        block = unet.get_submodule(site.path)
        _HOOKED[block] = _HookedBlock(block)
    unet.forward = torch.compile(unet.forward, **options)
