"""Rows as PyTorch data sets, for training loops of one's own: shuffled batches, or image by image."""

import copy
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from activation_store.batches import BatchOptions
from unbox.errors import FieldError
from unbox.ranks import ranks
from unbox.sae.row_source import ImageRows, RowSource
from unbox.validation import Amount, Count, Processes, Rank, Seed, checked

Source = TypeVar("Source", bound=RowSource)


class ShuffledRows(IterableDataset[Tensor]):
    """Batches (B, d) float32 of an epoch of rows, in the order of a seed and the epoch.

        loader = DataLoader(ShuffledRows(store["up.0.1"], 4096, seed=0), batch_size=None, num_workers=4)

    Each row comes once an epoch to one worker of one rank. Ranks are those of `torchrun`, unless given. The
    last batch of a worker may be smaller. An epoch is chosen by `set_epoch`, for workers that persist too.
    Memory: two pools of rows (256 MB each) for each worker.
    """

    def __init__(
        self,
        rows: RowSource,
        batch_size: int,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        """`rows`: of a store, joined or aligned ones, an array's. FieldError for sizes that are none."""
        self.rows, door = rows, "ShuffledRows"
        self.batch_size = checked(Count, "batch_size", batch_size, door)
        self.seed = checked(Seed, "seed", seed, door)
        self.rank = checked(Rank, "rank", ranks().rank if rank is None else rank, door)
        self.world = checked(Processes, "world", ranks().world if world is None else world, door)
        if self.rank >= self.world:
            raise FieldError(
                door, "rank", self.rank, f"should be less than the number of ranks, {self.world}"
            )
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that persist

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next loops, from 0."""
        self._epoch.fill_(checked(Amount, "epoch", epoch, "ShuffledRows"))

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        rows, epoch = _own(self.rows), int(self._epoch)
        rank, world = self.rank * workers + number, self.world * workers
        order: BatchOptions = {"seed": self.seed, "epochs": epoch + 1, "rank": rank, "world": world}
        order["cursor"] = {**rows.batches(self.batch_size, **order).cursor, "epoch": epoch}
        for batch in rows.batches(self.batch_size, **order):
            yield torch.from_numpy(batch)


class ImageUpdates(Dataset[Tensor]):
    """Updates image by image: item i is that of the i-th image, (step, branch, y, x, d) float32.

    A loader that goes through them in order reads each chunk of the store once; one that shuffles reads a
    chunk for each image, of about 1 MB for each step and branch.
    """

    def __init__(self, rows: ImageRows) -> None:
        self.rows = rows
        self._worker: int | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows.samples)

    def __getitem__(self, i: int) -> Tensor:
        return self.__getitems__([i])[0]

    def __getitems__(self, images: Sequence[int]) -> list[Tensor]:
        """Several images, read in the order of the store. Raises IndexError where one is not there."""
        if beyond := [i for i in images if not -len(self) <= i < len(self)]:
            raise IndexError(f"image {beyond[0]} of {len(self)}")
        worker = get_worker_info()
        if worker is not None and self._worker != worker.id:
            self.rows, self._worker = _own(self.rows), worker.id
        read = {i: torch.from_numpy(self.rows.read(i)) for i in sorted({i % len(self) for i in images})}
        return [read[i % len(self)] for i in images]


def _own(rows: Source) -> Source:
    """The rows with files and locks of this process: a forked one must not use those of its parent."""
    return rows if get_worker_info() is None else copy.deepcopy(rows)
