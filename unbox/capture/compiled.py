"""Compiled modules, on which hooks that are added would silently never fire."""

from collections.abc import Iterator

import torch

from unbox.errors import UnboxError
from unbox.models.block_hooks import compiled_whole, shows_block


def refuse_compiled(network: torch.nn.Module, path: str, name: str) -> None:
    """Raise UnboxError where a module of a network, by its path, or one that it is in, is compiled.

    `name`: what would be read or changed there.
    """
    if shows_block(network.get_submodule(path)):
        return
    if compiled_whole(network):
        raise UnboxError(
            "the UNet is compiled as a whole (compile_whole), which shows what its blocks are given and give "
            f"and nothing else: for {name} load without it"
        )
    for place, module in _within(network, path):
        whole = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        if not whole and not hasattr(module.forward, "_torchdynamo_orig_callable"):
            continue
        if ".transformer_blocks." in f"{place}.":
            raise UnboxError(
                f"the transformer layers of this model are compiled ({place}), so nothing inside them can be "
                f"read: hooks for {name} would never fire; load without compile=True"
            )
        raise UnboxError(
            f"{f'{place} of the network' if place else 'the network'} is compiled as a whole, so hooks for "
            f"{name} would never fire; load with compile=True or call unet.compile_repeated_blocks(), which "
            "leaves the blocks visible, or load with compile_whole=True, for what blocks are given and give"
        )


def _within(network: torch.nn.Module, path: str) -> Iterator[tuple[str, torch.nn.Module]]:
    """A network and every module on the way to one inside it, with their paths."""
    yield "", network
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        here = ".".join(parts[:end])
        yield here, network.get_submodule(here)
