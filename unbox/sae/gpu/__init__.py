"""The training step on a GPU, by Triton's kernels. Without Triton torch's operations do the same."""

from importlib.util import find_spec

TRITON = find_spec("triton") is not None
