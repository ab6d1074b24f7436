"""Recording a batch into arrays of a known shape: what collecting and streaming use."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod

import numpy as np
import torch

from activation_store import Schema
from unbox.capture.block_hooks import update, watch
from unbox.errors import UnboxError
from unbox.models.clock import Clock, clock
from unbox.models.model import Model


class Buffers:
    """Updates of one batch of images, on the model's device, in the store's shape."""

    def __init__(self, schema: Schema, seeds: Sequence[int], device: torch.device) -> None:
        """`seeds`: one for each image; they choose the positions when the schema samples them."""
        self.schema, self.samples = schema, len(seeds)
        dtype = torch.float32 if schema.dtype in ("int8", "float8") else getattr(torch, schema.dtype)
        self._tensors = {
            block: torch.empty(schema.shape(block, len(seeds)), dtype=dtype, device=device)
            for block in schema.blocks
        }
        self.positions = None if schema.positions is None else positions(schema, seeds)
        self._left = {block: prod(schema.shape(block, len(seeds))[:3]) for block in schema.blocks}

    def fill(self, now: Clock, block: str, given: torch.Tensor, output: torch.Tensor) -> None:
        """Put one forward's updates where they belong; other steps and branches are passed over."""
        if now.step not in self.schema.steps:
            return
        step = self.schema.steps.index(now.step)
        rows = update(given, output, self._tensors[block].dtype)
        if rows.shape[1:] != self.schema.blocks[block]:
            found, wanted = tuple(rows.shape[1:]), self.schema.blocks[block]
            raise UnboxError(f"{block} gave updates of shape {found}, not {wanted}")
        for branch, name in enumerate(self.schema.branches):
            of_branch = [row for row, other in enumerate(now.branches) if other == name]
            images = torch.as_tensor(now.samples[of_branch], device=rows.device)
            chosen = self._choose(block, rows[of_branch], now.samples[of_branch])
            self._tensors[block][images, step, branch] = chosen
            self._left[block] -= len(of_branch)

    def arrays(self) -> dict[str, np.ndarray]:
        """block -> (images, steps, branches, y, x, channels); bfloat16 as its bits.

        Raises UnboxError when a step or branch of an image never came.
        """
        if missing := [block for block, left in self._left.items() if left > 0]:
            raise UnboxError(
                f"steps {self.schema.steps} and branches {self.schema.branches} did not all occur at "
                f"{', '.join(missing)}; check steps and guidance"
            )
        of_bits = {torch.bfloat16: torch.uint16}
        tensors = {block: tensor.cpu() for block, tensor in self._tensors.items()}
        return {block: x.view(of_bits.get(x.dtype, x.dtype)).numpy() for block, x in tensors.items()}

    def _choose(self, block: str, rows: torch.Tensor, images: np.ndarray) -> torch.Tensor:
        if self.positions is None:
            return rows
        index = torch.as_tensor(self.positions[block][images].astype(np.int64), device=rows.device)
        return rows.flatten(1, 2).take_along_dim(index[..., None], 1)[:, None]


@contextmanager
def buffered(model: Model, schema: Schema, seeds: Sequence[int]) -> Iterator[Buffers]:
    """Record the images that `model.generate(seeds=seeds)` makes inside, as one batch or several."""
    buffers = Buffers(schema, seeds, model.device)
    with clock(model, "recording") as now, watch(model, list(schema.blocks), partial(buffers.fill, now)):
        yield buffers


def positions(schema: Schema, seeds: Sequence[int]) -> Mapping[str, np.ndarray]:
    """block -> (images, P) uint32: sorted flat indices of the positions kept of each image.

    Drawn from the image's seed and the grid alone: the same for every step and branch, and for blocks of one
    grid.
    """
    chosen = {}
    for block, (height, width, _) in schema.blocks.items():
        count = prod(schema.grid(block))
        draws = [np.random.default_rng([seed, height, width]).permutation(height * width) for seed in seeds]
        chosen[block] = np.stack([np.sort(draw[:count]) for draw in draws]).astype(np.uint32)
    return chosen
