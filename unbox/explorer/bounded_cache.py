"""What is kept until it takes too many bytes, for several threads."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """Values by key, of `limit` bytes in all at most; those used longest ago make room. The newest is kept
    whatever its size."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._lock = threading.Lock()
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value of a key, which counts as used now; None without one."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep a value of so many bytes, in place of the key's former one."""
        with self._lock:
            self.size -= self._values.pop(key, (None, 0))[1]
            self._values[key] = value, size
            self.size += size
            while self.size > self.limit and len(self._values) > 1:
                self.size -= self._values.popitem(last=False)[1][1]

    def __contains__(self, key: K) -> bool:
        """Whether a key is there; then it counts as used now."""
        return self.get(key) is not None

    def __len__(self) -> int:
        return len(self._values)
