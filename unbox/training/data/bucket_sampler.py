"""Which examples make which batch: of one bucket each, shuffled, the same for a seed on any machine."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class BucketSampler:
    """Batches of `batch` examples for each of `world` processes; batch `number` is a function of the seed and
    its number alone, so that nothing has to be kept to resume.

    An epoch shows every example once; a bucket's last batch is filled up from the bucket's beginning. Memory:
    16 bytes an example.
    """

    counts: tuple[int, ...]
    """Examples of each bucket."""
    batch: int
    world: int = 1
    seed: int = 0
    _epoch: int = field(default=-1, init=False)
    _batches: np.ndarray = field(init=False)
    """(batches, 2): bucket, and which batch of it."""
    _orders: list[np.ndarray] = field(init=False)

    @property
    def together(self) -> int:
        """Examples that all processes have in one batch."""
        return self.batch * self.world

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return sum(-(-count // self.together) for count in self.counts)

    def rows(self, number: int, rank: int = 0) -> tuple[int, np.ndarray]:
        """The bucket, and (batch,) the numbers of the examples in it, of a process's share of a batch."""
        epoch, place = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        bucket, nth = self._batches[place]
        order = self._orders[bucket]
        start = nth * self.together + rank * self.batch
        return int(bucket), order[np.arange(start, start + self.batch) % len(order)]

    def _shuffle(self, epoch: int) -> None:
        rng = np.random.default_rng([self.seed, epoch])
        self._orders = [rng.permutation(count) for count in self.counts]
        batches = [
            np.stack([np.full(n, bucket), np.arange(n)], 1)
            for bucket, count in enumerate(self.counts)
            if (n := -(-count // self.together))
        ]
        self._batches = rng.permutation(np.concatenate(batches))
        self._epoch = epoch
