"""Where the sections of `gpu.py` run, and how they take times and memory."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Setting:
    """Where sections run and how large."""

    device: torch.device
    tiny: bool
    repeats: int

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], object], repeats: int | None = None, warm: int = 3) -> list[float]:
        """Seconds of each of some calls, waited for, after a few to warm up."""
        for _ in range(warm):
            run()
        found = []
        for _ in range(repeats or self.repeats):
            self.wait()
            began = time.perf_counter()
            run()
            self.wait()
            found.append(time.perf_counter() - began)
        return found

    def peak(self, run: Callable[[], object]) -> int:
        """Bytes that a call took on the card beyond what lay there before; 0 on a CPU."""
        if not self.cuda:
            run()
            return 0
        self.wait()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        run()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) - before


def shown(seconds: list[float]) -> str:
    """Median ± half the range, in milliseconds."""
    spread = (max(seconds) - min(seconds)) / 2
    return f"{statistics.median(seconds) * 1e3:.2f} ± {spread * 1e3:.2f}"
