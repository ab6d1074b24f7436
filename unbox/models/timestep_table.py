"""Which step a UNet's timestep is, known without asking the device.

A pipeline gives its UNet the entries of the scheduler's own table, views of one tensor. The place of a view
is known on the host, and the table's values are read there once a run: in the denoising loop nothing waits
for the device, so that a GPU's queue stays full and a forward can be captured in a graph.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from unbox.errors import UnboxError


class Place(NamedTuple):
    """A timestep in a scheduler's table."""

    step: int
    """Rank among the distinct timesteps, from 0 (two-stage solvers list some twice)."""
    timestep: float
    visits: int
    """How often the table lists it."""


@dataclass(frozen=True, eq=False)
class TimestepTable:
    """A scheduler's timesteps with their values on the host."""

    timesteps: Tensor
    values: tuple[float, ...]
    version: int | None

    @classmethod
    def of(cls, timesteps: Tensor) -> Self:
        """Read a scheduler's table: the one look at the device."""
        return cls(timesteps, tuple(float(each) for each in timesteps.cpu().tolist()), _version(timesteps))

    def is_of(self, timesteps: Tensor) -> bool:
        """Whether it is this table, as it was when it was read."""
        return timesteps is self.timesteps and _version(timesteps) == self.version

    def find(self, timestep: Tensor | float) -> Place:
        """The place of what a UNet is given: an entry of the table, one for all rows, or one each and equal.

        Other tensors than the table's own entries are read, and waited for where they are on a device. Raises
        UnboxError for rows at different timesteps and for one that is not in the table.
        """
        place = self._place_of_view(timestep) if isinstance(timestep, Tensor) else None
        value = _common_value(timestep) if place is None else self.values[place]
        distinct = list(dict.fromkeys(self.values))
        if value not in distinct:
            shown = ", ".join(f"{t:g}" for t in distinct[:8]) + (", ..." if len(distinct) > 8 else "")
            raise UnboxError(
                f"the UNet was called at timestep {value:g}, which is not one of the scheduler's ({shown}); "
                "call pipeline.scheduler.set_timesteps(...) with the timesteps that you use"
            )
        return Place(distinct.index(value), value, self.values.count(value))

    def _place_of_view(self, timestep: Tensor) -> int | None:
        """Where in the table a view of one of its entries is, repeated or not; None for other tensors."""
        table = self.timesteps
        sizes = zip(timestep.shape, timestep.stride(), strict=True)
        one = timestep.numel() > 0 and all(size == 1 or not stride for size, stride in sizes)
        if not one or timestep.dtype != table.dtype or not _same_memory(timestep, table):
            return None
        beyond = int(timestep.storage_offset()) - int(table.storage_offset())
        place, rest = divmod(beyond, table.stride(0) or 1)
        return place if not rest and 0 <= place < len(self.values) else None


def _same_memory(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are views of one storage, on whatever device and also where it holds no values."""
    return first.untyped_storage()._cdata == second.untyped_storage()._cdata


def _version(x: Tensor) -> int | None:
    """Counts a tensor's changes in place; None where torch does not count them."""
    return None if x.is_inference() else x._version


def _common_value(timestep: Tensor | float) -> float:
    values = torch.as_tensor(timestep).reshape(-1).cpu().tolist()
    if not values or any(value != values[0] for value in values):
        raise UnboxError(
            f"the rows of this UNet call are at different timesteps ({values[:4]}...): they have no "
            "common step; call the UNet with one timestep at a time while a run is watched"
        )
    return float(values[0])
