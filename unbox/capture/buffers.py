"""Recording a batch into arrays of a known shape: what collecting and streaming use."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Protocol

import numpy as np
import torch

from activation_store import Schema
from unbox.capture.activation_hooks import Values, watch
from unbox.errors import UnboxError
from unbox.models.clock import Moment, clock
from unbox.models.model import Model
from unbox.site import Activation

#: Forwards whose updates may be on their way from the device at once.
STAGES = 2


class _Event(Protocol):
    """When what was asked of the device before is done, as `torch.cuda.Event`."""

    def synchronize(self) -> None:
        """Wait for it."""
        ...


@dataclass
class _Stage:
    """Updates of one UNet forward in pinned memory, on their way."""

    moment: Moment
    device: torch.device
    pieces: list[tuple[str, np.ndarray, int, int, torch.Tensor]] = field(default_factory=list)
    """Block, images, step, branch (places in the schema), rows."""
    arrived: _Event | None = None


class Buffers:
    """Updates of one batch of images in host memory, in the store's shape.

    They leave the device as each block gives them: on a GPU into pinned memory, beside what it
    computes next, and from there once the forward after the next begins. The device holds none of them
    longer, host memory at most `STAGES` forwards besides. Of a step that a solver visits twice, the last
    visit is kept.
    """

    def __init__(self, schema: Schema, seeds: Sequence[int]) -> None:
        """`seeds`: one for each image; they choose the positions when the schema samples them."""
        self.schema, self.samples = schema, len(seeds)
        self._tensors = {
            block: torch.empty(schema.shape(block, len(seeds)), dtype=recorded_dtype(schema))
            for block in schema.blocks
        }
        self.positions = None if schema.positions is None else positions(schema, seeds)
        self._seen = {block: np.zeros(schema.shape(block, len(seeds))[:3], bool) for block in schema.blocks}
        self._stages = deque[_Stage]()

    def fill(self, activation: Activation, moment: Moment, values: Values) -> None:
        """Put one forward's rows where they belong; other steps and branches are passed over."""
        block = activation.name
        if moment.step not in (steps := self.schema.steps_of(block)):
            return
        step, rows = steps.index(moment.step), values(self._tensors[block].dtype)
        rows = rows[:, None] if activation.site.layout == "tokens" else rows
        if rows.shape[1:] != self.schema.blocks[block]:
            found, wanted = tuple(rows.shape[1:]), self.schema.blocks[block]
            raise UnboxError(f"{block} gave values of shape {found}, not {wanted}")
        for branch, name in enumerate(self.schema.branches_of(block)):
            of_branch = [row for row, other in enumerate(moment.branches) if other == name]
            images = moment.samples[of_branch]
            if not len(images):
                continue
            chosen = self._choose(block, rows[of_branch], images)
            if self._staged(chosen):
                pieces = self._stage(moment, chosen.device).pieces
                pieces.append((block, images, step, branch, self._to_pinned(chosen)))
            else:
                self._tensors[block][torch.as_tensor(images), step, branch] = chosen.cpu()
            self._seen[block][images, step, branch] = True

    def close(self) -> None:
        """Nothing more will come."""
        if self._stages and self._stages[-1].arrived is None:
            self._stages[-1].arrived = self._event(self._stages[-1].device)

    def arrays(self) -> dict[str, np.ndarray]:
        """block -> (images, steps, branches, y, x, channels); bfloat16 as its bits. Waits for the device.

        Raises UnboxError when a step or branch of an image never came.
        """
        if missing := [block for block, seen in self._seen.items() if not seen.all()]:
            steps, branches = self.schema.steps_of(missing[0]), self.schema.branches_of(missing[0])
            raise UnboxError(
                f"steps {steps} and branches {branches} did not all occur at {', '.join(missing)}; check "
                "steps and guidance"
            )
        self.close()
        self._empty(0)
        of_bits = {torch.bfloat16: torch.uint16}
        return {block: x.view(of_bits.get(x.dtype, x.dtype)).numpy() for block, x in self._tensors.items()}

    def _stage(self, moment: Moment, device: torch.device) -> _Stage:
        """Where the updates of this forward wait; those of the forwards before the last leave theirs."""
        if not self._stages or self._stages[-1].moment is not moment:
            self.close()
            self._empty(STAGES - 1)
            self._stages.append(_Stage(moment, device))
        return self._stages[-1]

    def _empty(self, left: int) -> None:
        while len(self._stages) > left:
            stage = self._stages.popleft()
            assert stage.arrived is not None
            stage.arrived.synchronize()
            for block, images, step, branch, rows in stage.pieces:
                self._tensors[block][torch.as_tensor(images), step, branch] = rows

    def _staged(self, rows: torch.Tensor) -> bool:
        """Whether rows leave their device beside what it computes next."""
        return rows.device.type == "cuda"

    def _to_pinned(self, rows: torch.Tensor) -> torch.Tensor:
        """A copy that is under way. Pinned memory comes from torch's cache, and goes back to it."""
        return torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True).copy_(rows, non_blocking=True)

    def _event(self, device: torch.device) -> _Event:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(device))
        return event

    def _choose(self, block: str, rows: torch.Tensor, images: np.ndarray) -> torch.Tensor:
        if self.positions is None:
            return rows
        index = torch.as_tensor(self.positions[block][images].astype(np.int64), device=rows.device)
        return rows.flatten(1, 2).take_along_dim(index[..., None], 1)[:, None]


@contextmanager
def buffered(
    model: Model, activations: Sequence[Activation], schema: Schema, seeds: Sequence[int]
) -> Iterator[Buffers]:
    """Record the images that `model.generate(seeds=seeds)` makes inside, as one batch or several."""
    buffers = Buffers(schema, seeds)
    with clock(model, "recording") as now, watch(model, now, activations, buffers.fill):
        yield buffers
        buffers.close()


def recorded_dtype(schema: Schema) -> torch.dtype:
    """The type in which updates wait to be encoded."""
    return torch.float32 if schema.dtype in ("int8", "float8") else getattr(torch, schema.dtype)


def recorded_bytes(schema: Schema) -> int:
    """Bytes of one image's updates while they wait to be encoded."""
    size = recorded_dtype(schema).itemsize
    return sum(prod(schema.shape(block, 1)) for block in schema.blocks) * size


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
