"""Recording into memory: `with record(model, blocks) as tape:` around any call of the pipeline."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal, NamedTuple

import torch

from unbox.capture.attention import KINDS, watch_attention
from unbox.capture.block_hooks import Args, Kwargs, spatial_last, update, watch
from unbox.errors import UnboxError
from unbox.models.clock import Clock, clock
from unbox.models.devices import find_device
from unbox.models.model import Model
from unbox.site import BRANCHES, DEFAULT_BLOCKS, BlockName
from unbox.validation import Index, Some, checked

#: What can be recorded of a block.
Kind = Literal["update", "input", "output", "self", "cross"]


class RecordedBatch(NamedTuple):
    """What one UNet forward gave at one site: row r belongs to image samples[r] and branch branches[r]."""

    samples: tuple[int, ...]
    step: int
    branches: tuple[str, ...]
    rows: torch.Tensor


class Tape:
    """What was recorded. `tape["mid.0"]`: (sample, step, branch, y, x, channel) of the first kind asked for.

    Images count on over several calls of the pipeline. `steps` and `branches` name those axes.
    """

    def __init__(self, model: Model, now: Clock, blocks: Sequence[str], what: Sequence[str]) -> None:
        self.blocks, self.what = tuple(blocks), tuple(what)
        self._model, self._clock = model, now
        self._parts: dict[tuple[str, str, int], list[RecordedBatch]] = defaultdict(list)
        self._visits: dict[tuple[int, str, int], int] = defaultdict(int)
        self._first = self._end = 0

    def __repr__(self) -> str:
        blocks, what = ", ".join(self.blocks), ", ".join(self.what)
        return f"Tape({blocks}: {what}; {len(self)} images, steps {self.steps})"

    def __len__(self) -> int:
        """Images recorded so far."""
        return self._end

    @property
    def steps(self) -> tuple[int, ...]:
        """The scheduler's step indices that were recorded, ascending."""
        return tuple(sorted({part.step for parts in self._parts.values() for part in parts}))

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that were recorded, "cond" first."""
        found = {branch for parts in self._parts.values() for part in parts for branch in part.branches}
        return tuple(branch for branch in BRANCHES if branch in found)

    def __getitem__(self, block: str) -> torch.Tensor:
        """`read(block)` of the first kind that was asked for."""
        return self.read(block, self.what[0])

    def read(self, block: str, what: str = "update", branch: str | None = None) -> torch.Tensor:
        """One kind of record of a block, on the tape's device.

        "update", "input", "output": (sample, step, branch, y, x, channel). "self", "cross":
        (sample, step, branch, layer, head, y, x, key). With `branch` that branch alone, without its axis.
        Raises UnboxError for what was not recorded.
        """
        if block not in self.blocks or what not in self.what:
            raise UnboxError(
                f"the tape has no {what} of {block}; it records {', '.join(self.what)} of "
                f"{', '.join(self.blocks)}"
            )
        layers = sorted(layer for name, kind, layer in self._parts if (name, kind) == (block, what))
        if not layers:
            raise UnboxError("nothing was recorded: no image was made while the tape ran")
        wanted = self.branches if branch is None else (branch,)
        parts = [self._parts[block, what, layer] for layer in layers]
        tables = [self._assemble(part, f"{what} of {block}", wanted) for part in parts]
        table = torch.stack(tables, dim=3) if what in KINDS else tables[0]
        return table if branch is None else table[:, :, 0]

    def _assemble(self, parts: Sequence[RecordedBatch], name: str, branches: Sequence[str]) -> torch.Tensor:
        shapes = {part.rows.shape[1:] for part in parts}
        if len(shapes) > 1:
            raise UnboxError(f"the {name} has several sizes, {sorted(map(tuple, shapes))}; record them apart")
        steps = self.steps
        table = parts[0].rows.new_empty((self._end, len(steps), len(branches), *shapes.pop()))
        missing = {(i, s, b) for i in range(self._end) for s in steps for b in branches}
        for part in parts:
            for sample, branch, row in zip(part.samples, part.branches, part.rows, strict=True):
                if branch in branches:
                    table[sample, steps.index(part.step), branches.index(branch)] = row
                    missing.discard((sample, part.step, branch))
        if missing:
            sample, step, branch = min(missing)
            raise UnboxError(
                f"image {sample} has no {branch} at step {step} (a run that was stopped, or guidance in some "
                "steps only); read one branch with tape.read(block, branch=...), and record runs apart"
            )
        return table

    def _begin(self, unet: torch.nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Before each UNet forward: tell a new call of the pipeline from the next step of this one.

        A call visits an image's step as often as the scheduler lists its timestep (two-stage solvers: twice).
        """
        moment = self._clock.moment
        allowed = max(1, self._model.pipeline.scheduler.timesteps.tolist().count(moment.timestep))
        keys = [(moment.step, b, int(i)) for b, i in zip(moment.branches, moment.samples, strict=True)]
        if any(self._visits[key] >= allowed for key in keys):
            self._visits.clear()
            self._first = self._end
        for key in keys:
            self._visits[key] += 1
        self._end = max(self._end, self._first + 1 + int(moment.samples.max()))

    def _append(self, block: str, kind: str, layer: int, rows: torch.Tensor) -> None:
        moment = self._clock.moment
        samples = tuple(self._first + int(i) for i in moment.samples)
        self._parts[block, kind, layer].append(RecordedBatch(samples, moment.step, moment.branches, rows))


@contextmanager
def record(
    model: Model,
    blocks: Sequence[str] | str = DEFAULT_BLOCKS,
    what: Sequence[str] | str = ("update",),
    *,
    layers: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    wait: bool = True,
) -> Iterator[Tape]:
    """Record blocks of `model` inside any call of its pipeline; gives the `Tape`.

    `what`: of "update" (output minus input), "input", "output", and "self" and "cross" attention maps (of the
    transformer `layers` chosen, None for all). Records are copies on `device`, in `dtype` or the
    activations' own. What is recorded is the block's own output: edits attached inside this context come
    after. Everything is taken off at the end, after an exception too. Until then this thread has the model
    alone; where another has it, this one waits or, without `wait`, raises UnboxError that names it. Raises
    UnboxError for unknown blocks and for models where hooks would miss something.
    """
    blocks = tuple(dict.fromkeys(checked(Some[BlockName], "blocks", blocks, "record")))
    what = tuple(dict.fromkeys(checked(Some[Kind], "what", what, "record")))
    device = find_device(device)
    if layers is not None:
        layers = checked(Some[Index], "layers", layers, "record")
    maps = [kind for kind in what if kind in KINDS]

    def copy(rows: torch.Tensor) -> torch.Tensor:
        return rows.detach().to(device, dtype or rows.dtype, copy=True).contiguous()

    def observe(block: str, given: torch.Tensor, output: torch.Tensor) -> None:
        if "update" in what:
            tape._append(block, "update", 0, update(given, output, dtype).to(device).contiguous())
        for kind, x in (("input", given), ("output", output)):
            if kind in what:
                tape._append(block, kind, 0, copy(spatial_last(x)))

    with ExitStack() as stack:
        tape = Tape(model, stack.enter_context(clock(model, "recording", wait)), blocks, what)
        stack.callback(model.unet.register_forward_pre_hook(tape._begin, with_kwargs=True).remove)
        stack.enter_context(watch(model, blocks, observe))
        if maps:
            append = lambda block, kind, layer, x: tape._append(block, kind, layer, copy(x))  # noqa: E731
            stack.enter_context(watch_attention(model, blocks, maps, layers, append))
        yield tape
