"""Processes that train together. Alone is usual; under `torchrun` each takes its share of a batch."""

import atexit
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from unbox.errors import UnboxError
from unbox.models.devices import find_device
from unbox.ranks import check_meeting_place, ranks

T = TypeVar("T")

#: How long a process waits for another, at most: one that reads rows from a cold disk, or measures an SAE.
PATIENCE = timedelta(minutes=30)


class ProcessGroup:
    """Processes that train together: here the usual single one, which exchanges nothing."""

    rank, world = 0, 1

    def sum_(self, *tensors: Tensor) -> None:
        """Replace each tensor, in place, by its sum over the processes."""

    def any_(self, flags: Tensor) -> None:
        """Replace a bool tensor, in place, by its `or` over the processes."""

    def broadcast_(self, *tensors: Tensor) -> None:
        """Replace each tensor, in place, by the first process's."""

    def gather(self, values: Tensor) -> list[Tensor]:
        """The flat tensors (E,) of all processes, in order of rank; E may differ."""
        return [values]

    def gather_rows(self, values: Tensor) -> Tensor:
        """(world * B, ...): tensors of one shape of all processes, one under the other."""
        return values

    def collect(self, value: T) -> list[T]:
        """A small JSON value of every process, in order of rank. Returns when all have come."""
        return [value]

    def whole_on(self, owner: int, part: Tensor) -> Tensor | None:
        """(world * B, ...) on the CPU of the process `owner`: the parts (B, ...) of all, one under the other.
        None in the others, which receive nothing."""
        return part.cpu()

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process; an UnboxError that it raises there is raised in all."""
        return make()


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

    def broadcast_(self, *tensors: Tensor) -> None:
        """Broadcast from the first process."""
        for work in [dist.broadcast(tensor, src=0, async_op=True) for tensor in tensors]:
            work.wait()

    def gather(self, values: Tensor) -> list[Tensor]:
        """Lengths first, then values padded to the longest."""
        length = torch.tensor([len(values)], device=values.device)
        lengths = [torch.zeros_like(length) for _ in range(self.world)]
        dist.all_gather(lengths, length)
        longest = int(max(int(one) for one in lengths))
        padded = values.new_zeros(longest)
        padded[: len(values)] = values
        parts = [torch.zeros_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return [part[: int(one)] for part, one in zip(parts, lengths, strict=True)]

    def gather_rows(self, values: Tensor) -> Tensor:
        """All-gather."""
        values = values.contiguous()
        parts = [torch.empty_like(values) for _ in range(self.world)]
        dist.all_gather(parts, values)
        return torch.cat(parts)

    def collect(self, value: T) -> list[T]:
        """All-gather of objects, by gloo: no GPU is asked, none waited for."""
        found = [value] * self.world
        dist.all_gather_object(found, value)
        return found

    def whole_on(self, owner: int, part: Tensor) -> Tensor | None:
        """Gather by gloo, into the rows of one tensor."""
        part = part.cpu().contiguous()
        if self.rank != owner:
            dist.gather(part, dst=owner)
            return None
        whole = part.new_empty(self.world * len(part), *part.shape[1:])
        dist.gather(part, list(whole.chunk(self.world)), dst=owner)
        return whole

    def from_first(self, make: Callable[[], T]) -> T:
        """Broadcast of an object, by gloo."""
        found: list[T | UnboxError | None] = [None]
        if self.rank == 0:
            try:
                found = [make()]
            except UnboxError as error:
                found = [error]
        dist.broadcast_object_list(found, src=0)
        if isinstance(found[0], UnboxError):
            raise found[0]
        return found[0]  # type: ignore[return-value]


def group(device: torch.device | str = "cpu") -> ProcessGroup:
    """The processes that `torchrun` started with this one (joined on first use), or this one alone.

    `device` becomes this process's current one: nothing else of unbox sets it. Tensors on GPUs go by NCCL,
    those of CPUs and objects by gloo.
    """
    place, gpu = torch.device(device), torch.device(device).type == "cuda"
    if gpu:
        torch.cuda.set_device(place)
    if not dist.is_initialized() and ranks().world > 1:
        check_meeting_place()
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "cpu:gloo", timeout=PATIENCE, device_id=place if gpu else None
        )
        atexit.register(dist.destroy_process_group)  # else gloo's threads may outlive what they use
    return TorchProcessGroup() if dist.is_initialized() and dist.get_world_size() > 1 else ProcessGroup()


def local_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; None or `cuda`: this process's own GPU (the only one that it sees, if it is one),
    None also the CPU where there is no GPU of CUDA's: on others (xpu, mps) SAEs are fitted where one is
    named. UnboxError for others."""
    own = ranks().local if torch.cuda.device_count() != 1 else 0
    usual = f"cuda:{own}" if torch.cuda.is_available() else "cpu"
    found = find_device(usual if device is None else device)
    return torch.device("cuda", own) if found.type == "cuda" and found.index is None else found


def checksums(tensors: Iterable[Tensor]) -> list[int]:
    """One whole number for each tensor, of its bits: equal for equal tensors, and the same on any device."""
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
    sums = [tensor.view(bits[tensor.element_size()]).sum(dtype=torch.int64) for tensor in tensors]
    return torch.stack(sums).tolist() if sums else []


def check_replicas(tensors: Mapping[str, Tensor], processes: ProcessGroup, name: str) -> None:
    """Raise UnboxError, in every process, where tensors that all should hold alike are not the same bits."""
    own = dict(zip(tensors, checksums(tensors.values()), strict=True))
    first, *others = processes.collect(own)
    for rank, found in enumerate(others, 1):
        if differing := [key for key in first if found[key] != first[key]]:
            raise UnboxError(
                f"{name} is not the same in all processes: {', '.join(differing)} of process {rank} "
                "differ from process 0's. A card or a library computes other numbers; start the same line "
                "again from the last checkpoint, with one kind of card and one version of torch everywhere"
            )


@cache
def file_group() -> dist.ProcessGroup | None:
    """The processes as those who write files agree, by gloo and beside everything else that they say to each
    other; None for one alone. All must ask for it at the same place."""
    alone = not dist.is_initialized() or dist.get_world_size() == 1
    return None if alone else dist.new_group(backend="gloo", timeout=PATIENCE)


@cache
def _waiting_group() -> dist.ProcessGroup:
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def agreed(ready: bool, stop: int) -> tuple[bool, int]:
    """Whether all processes are ready, and the largest number of a signal that asked one to stop (0: none).

    By gloo, beside everything else that they say to each other; every process must call it.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return ready, stop
    told = torch.tensor([int(not ready), stop])
    dist.all_reduce(told, op=dist.ReduceOp.MAX, group=_waiting_group())
    return not told[0], int(told[1])


def sharded(part: Tensor, latents: ProcessGroup) -> Tensor:
    """A tensor on CPU whose rows are this process's latents, as the part of a whole that it is."""
    if latents.world == 1:
        return part
    return DTensor.from_local(part, _file_mesh(), [Shard(0)], run_check=False)


@cache
def _file_mesh() -> DeviceMesh:
    found = file_group()
    assert found is not None, "several share latents"
    return DeviceMesh.from_group(found, "cpu")


def team(share: str, device: torch.device | str = "cpu") -> Team:
    """This process's fellows, who share the `rows` of a batch or the `latents` of an SAE."""
    found = group(device)
    return Team(found, ProcessGroup()) if share == "rows" else Team(ProcessGroup(), found)
