"""Batches of rows on a GPU: pools go there as they are stored, and are gathered and decoded there.

A pool (256 MB: 100,000 rows of 1280 in float16; two of each block are there) crosses once, in the thread that
reads ahead and beside what the GPU computes; a batch is then a gather on the card. The host does nothing for
a row, where decoding a batch of 4096 to float32 and sending that takes it several milliseconds, a training
step less than one.
"""

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor

from activation_store import Pool
from activation_store.batches import Batches, Cursor

#: Stored number format -> (values, scales) of some rows, on the device -> float32.
_DECODE: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "float16": lambda values, scale: values.float(),
    "float32": lambda values, scale: values,
    "bfloat16": lambda values, scale: values.view(torch.bfloat16).float(),
    "int8": lambda values, scale: values.float() * _column(scale),
    "float8": lambda values, scale: values.view(torch.float8_e4m3fn).float() * _column(scale),
}


def _column(scale: Tensor | None) -> Tensor:
    assert scale is not None
    return scale[:, None]


class DeviceBatches(Iterator[Tensor]):
    """Iterator of (B, d) float32 on a device, the rows that `batches` would give; its `cursor` is theirs."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        batches.gather = self

    @property
    def cursor(self) -> Cursor:
        """Where the next batch begins."""
        return self._batches.cursor

    @property
    def host(self) -> Batches:
        """The batches whose rows these are."""
        return self._batches

    def __next__(self) -> Tensor:
        parts = cast(list[Tensor], self._batches.next_parts())
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def close(self) -> None:
        """Stop reading ahead."""
        self._batches.close()

    def prepare(self, pool: Pool) -> object:
        """A pool's values and scales on the device, whole when this returns."""
        values = torch.from_numpy(pool.values.view(np.int16) if pool.dtype == "bfloat16" else pool.values)
        host = [values, None if pool.scale is None else torch.from_numpy(pool.scale)]
        if self._stream is None:
            return [None if each is None else each.to(self._device) for each in host]
        with torch.cuda.stream(self._stream):
            near = [None if each is None else each.to(self._device) for each in host]
        self._stream.synchronize()
        for each in near:
            if each is not None:  # made on this stream, used on another: not to be given away while it is
                each.record_stream(torch.cuda.default_stream(self._device))
        return near

    def take(self, pool: Pool, rows: np.ndarray, prepared: object) -> Tensor:
        """Some rows of a pool that was sent, decoded on the device."""
        values, scale = cast(tuple[Tensor, Tensor | None], prepared)
        index = torch.from_numpy(np.ascontiguousarray(rows)).to(self._device, non_blocking=True)
        return _DECODE[pool.dtype](values[index], None if scale is None else scale[index])
