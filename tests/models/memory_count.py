"""Counts the bytes of all tensors that live at once, op by op, of real tensors or of fake ones."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryCount(TorchDispatchMode):
    """Inside, each op's results are counted until they are freed. `peak`: bytes beside what was there."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._live = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {self._key(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage(), given)
        return result

    @staticmethod
    def _key(tensor):
        return tensor.untyped_storage()._cdata

    def _count(self, storage, given):
        key = storage._cdata
        if key in self._live or key in given:
            return
        self._live[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key)

    def _free(self, key):
        self.now -= self._live.pop(key)
