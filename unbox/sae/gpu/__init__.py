"""The training step on a GPU, by Triton's kernels. Without Triton torch's operations do the same."""

import os
from importlib.util import find_spec

import torch

TRITON = find_spec("triton") is not None
#: Whether Triton interprets its kernels, on a CPU: thousands of times slower, for tests.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def kernels_run_on(device: torch.device) -> bool:
    """Whether there is a Triton that runs kernels there."""
    return TRITON and (device.type == "cuda" or INTERPRETED)
