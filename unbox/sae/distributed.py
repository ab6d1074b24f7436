"""Processes that train together. Alone is usual; under `torchrun` each takes its share of a batch."""

import atexit
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from unbox.models.devices import find_device
from unbox.ranks import check_meeting_place, ranks

T = TypeVar("T")


class ProcessGroup:
    """Processes that train together: here the usual single one, which exchanges nothing."""

    rank, world = 0, 1

    def sum_(self, *tensors: Tensor) -> None:
        """Replace each tensor, in place, by its sum over the processes."""

    def any_(self, flags: Tensor) -> None:
        """Replace a bool tensor, in place, by its `or` over the processes."""

    def gather(self, values: Tensor) -> Tensor:
        """(sum of E,): the flat tensors of all processes, in order of rank; E may differ."""
        return values

    def gather_rows(self, values: Tensor) -> Tensor:
        """(world * B, ...): tensors of one shape of all processes, one under the other."""
        return values

    def collect(self, value: T) -> list[T]:
        """A small JSON value of every process, in order of rank. Returns when all have come."""
        return [value]


@dataclass(frozen=True)
class Team:
    """Who trains an SAE together: at most one of the two has more than one process."""

    rows: ProcessGroup
    """The processes that hold other rows of the batch, and the same latents."""
    latents: ProcessGroup
    """The processes that hold other latents of the SAE, and the same rows."""

    @property
    def everyone(self) -> ProcessGroup:
        """All the processes."""
        return self.latents if self.latents.world > 1 else self.rows

    @property
    def first(self) -> bool:
        """True in the process that writes."""
        return self.everyone.rank == 0


class TorchProcessGroup(ProcessGroup):
    """The default group of `torch.distributed`."""

    def __init__(self) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def sum_(self, *tensors: Tensor) -> None:
        """All-reduce; every process receives the same bits."""
        for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            work.wait()

    def any_(self, flags: Tensor) -> None:
        """All-reduce of bytes."""
        found = flags.to(torch.uint8)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        flags.copy_(found.bool())

    def gather(self, values: Tensor) -> Tensor:
        """Lengths first, then values padded to the longest."""
        length = torch.tensor([len(values)], device=values.device)
        lengths = [torch.zeros_like(length) for _ in range(self.world)]
        dist.all_gather(lengths, length)
        longest = int(max(int(one) for one in lengths))
        padded = values.new_zeros(longest)
        padded[: len(values)] = values
        parts = [torch.zeros_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return torch.cat([part[: int(one)] for part, one in zip(parts, lengths, strict=True)])

    def gather_rows(self, values: Tensor) -> Tensor:
        """All-gather."""
        values = values.contiguous()
        parts = [torch.empty_like(values) for _ in range(self.world)]
        dist.all_gather(parts, values)
        return torch.cat(parts)

    def collect(self, value: T) -> list[T]:
        """All-gather of objects."""
        found = [value] * self.world
        dist.all_gather_object(found, value)
        return found


def group(device: torch.device | str = "cpu") -> ProcessGroup:
    """The processes that `torchrun` started with this one (joined on first use), or this one alone."""
    if not dist.is_initialized() and ranks().world > 1:
        check_meeting_place()
        dist.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)  # else gloo's threads may outlive what they use
    return TorchProcessGroup() if dist.is_initialized() and dist.get_world_size() > 1 else ProcessGroup()


def local_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; None: this process's GPU if there is one, else the CPU. UnboxError for others."""
    return find_device(device, ranks().local)


def team(share: str, device: torch.device | str = "cpu") -> Team:
    """This process's fellows, who share the `rows` of a batch or the `latents` of an SAE."""
    found = group(device)
    return Team(found, ProcessGroup()) if share == "rows" else Team(ProcessGroup(), found)
