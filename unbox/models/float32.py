"""A model in float32 for a while: where half floats overflow, its images are tried again."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unbox.errors import UnboxError
from unbox.models.model import Model
from unbox.models.run_lock import exclusive


def float32_bytes(model: Model) -> tuple[int, int]:
    """Bytes of the model's weights as they are, and in float32."""
    tensors = _tensors(model)
    return sum(x.nbytes for x in tensors), sum(4 * x.numel() for x in tensors)


@contextmanager
def in_float32(model: Model) -> Iterator[None]:
    """Inside, all half-precision weights are float32, and so is what is computed; afterwards they are what
    they were, to the bit: float32 holds every half float.

    Raises UnboxError for weights that are not in memory (sequential offload), whose type cannot be changed.
    """
    with exclusive(model, "a run in float32"):
        tensors = _tensors(model)
        if any(tensor.is_meta for tensor in tensors):
            raise UnboxError(
                "weights that are offloaded one by one cannot be turned to float32: load the model without "
                "sequential offload, or with --dtype float32"
            )
        before = [(tensor, tensor.dtype) for tensor in tensors]
        try:
            for tensor in tensors:
                tensor.data = tensor.data.float()
            yield
        finally:
            for tensor, dtype in before:
                tensor.data = tensor.data.to(dtype)


def _tensors(model: Model) -> list[torch.Tensor]:
    """Half-precision weights and buffers of every part of every pipeline, each once."""
    parts = [
        part
        for pipeline in model.pipelines
        for part in pipeline.components.values()
        if isinstance(part, torch.nn.Module)
    ]
    found = {id(x): x for part in parts for x in (*part.parameters(), *part.buffers())}
    return [x for x in found.values() if x.dtype in (torch.float16, torch.bfloat16)]
