"""Edits that only add, as one tensor a block that stays where it is while its numbers change.

What they add depends on nothing that the model computes. A forward that was recorded as a CUDA graph reads
the tensor anew each time, so that a slider costs a copy and no new graph.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unbox.capture.compiled import refuse_compiled
from unbox.edit import Edits
from unbox.edits.apply import EditHook
from unbox.edits.layout import Maps
from unbox.edits.placement import copies_of
from unbox.edits.program import Program
from unbox.models.block_hooks import hook_block
from unbox.models.clock import Clock
from unbox.models.hooks import Hookable
from unbox.site import block_path


@dataclass(eq=False)
class _Addition:
    """What is added to one block's output: `program`'s sum, kept in a tensor of the output's shape."""

    program: Program
    held: Tensor | None = None

    def take(self, program: Program) -> None:
        """Add what these edits say from now on."""
        self.program = program
        if self.held is not None:
            self._fill(self.held)

    def _fill(self, held: Tensor) -> None:
        """held (1, d, y, x)."""
        grid_first = held.permute(0, 2, 3, 1)
        delta = self.program.delta(grid_first, None, 0, "cond")
        if delta is None:
            held.zero_()
        else:
            grid_first.copy_(delta)

    def hook(self, _: torch.nn.Module, args: object, kwargs: object, output: tuple[Tensor, ...]) -> object:
        """Forward hook of a block whose output is (images, d, y, x)."""
        if self.held is None or self.held.shape[1:] != output[0].shape[1:]:
            self.held = torch.empty_like(output[0][:1])
            self._fill(self.held)
        return (output[0] + self.held, *output[1:])


@dataclass(eq=False)
class ConstantEdits:
    """Edits of one model that change between runs of one step and are attached anew for each."""

    _additions: dict[str, _Addition] = field(default_factory=dict)

    @staticmethod
    def of(model: Hookable, edits: Edits | EditHook | None) -> Mapping[str, Program] | None:
        """The edits' programs by block; None where they read what the model computes, or are guarded: those
        are attached as they are. Raises UnboxError for a block whose hooks a compiled UNet would not call."""
        if isinstance(edits, EditHook):
            if edits.guard is not None:
                return None
            edits = edits.edits
        acting = Edits(tuple(edit for edit in edits or () if not edit.identity))
        maps, place, found = Maps(), copies_of(model.unet).on, dict[str, Program]()
        for name in acting.blocks:
            refuse_compiled(model.unet, block_path(name), name)
            width = int(model.block(name).in_channels)  # type: ignore[arg-type]
            mine = tuple(edit for edit in acting if edit.block == name)
            found[name] = Program(mine, width, maps, place)
            if found[name].reads:
                return None
        return found

    @contextmanager
    def attached(self, model: Hookable, programs: Mapping[str, Program], now: Clock) -> Iterator[None]:
        """Inside, the blocks add what the programs say."""
        with ExitStack() as stack:
            for name, program in programs.items():
                addition = self._additions.setdefault(name, _Addition(program))
                addition.take(program)
                stack.enter_context(now.finite.edited(None, Edits(program.edits)))
                stack.callback(hook_block(model.block(name), addition.hook).remove)
            yield
