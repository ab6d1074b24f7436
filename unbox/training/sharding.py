"""Modules whose weights, gradients and optimizer states several processes share (FSDP)."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from unbox.ranks import ranks

#: Parameters of a module from which on it is gathered by itself; smaller ones go with what is around them.
WORTH = 1_000_000


def shard_module(module: nn.Module, device: torch.device) -> None:
    """Share a module among all processes, in place: each residual or transformer block is gathered when it is
    called, the rest with the whole."""
    mesh = init_device_mesh(device.type, (ranks().world,))
    for part in blocks_of(module):
        fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """What is gathered by itself: the elements of the module's lists, the innermost of at least `WORTH`
    parameters."""
    found: list[nn.Module] = []
    for each in module.modules():
        if isinstance(each, nn.ModuleList):
            found += [
                part
                for part in each
                if sum(p.numel() for p in part.parameters()) >= WORTH
                and not any(isinstance(inner, nn.ModuleList) for inner in part.modules())
            ]
    return found


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes; every process must ask for it at the same place."""
    found: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return found


def sharded_like(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, shared as `like` is; as it is where that is not shared or of
    another shape (a counter)."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
