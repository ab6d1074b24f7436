"""Processes that train together, as threads of one."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from unbox.sae.distributed import ProcessGroup


class Threads(ProcessGroup):
    """Processes that are threads."""

    def __init__(self, rank, world, place, barrier):
        self.rank, self.world, self.place, self.barrier = rank, world, place, barrier

    def exchange(self, value):
        self.place[self.rank] = value
        self.barrier.wait()
        found = list(self.place)
        self.barrier.wait()
        return found

    def sum_(self, *tensors):
        for tensor in tensors:
            tensor.copy_(torch.stack([t.clone() for t in self.exchange(tensor.clone())]).sum(0))

    def gather(self, values):
        return self.exchange(values)

    def gather_rows(self, values):
        return torch.cat(self.exchange(values))

    def collect(self, value):
        return self.exchange(value)

    def whole_on(self, owner, part):
        found = self.exchange(part)
        return torch.cat(found) if self.rank == owner else None


def in_threads(world, work):
    """What work(group) gives in each of `world` threads."""
    place, barrier = [None] * world, threading.Barrier(world)
    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(lambda rank: work(Threads(rank, world, place, barrier)), range(world)))
