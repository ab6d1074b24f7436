"""Edits on a running model: hooks that go on and off in a context manager."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unbox.capture.compiled import refuse_compiled
from unbox.edit import Edit, Edits
from unbox.edits.guard import Guard
from unbox.edits.program import Program
from unbox.edits.terms import sae_of
from unbox.models.clock import Clock, clock
from unbox.models.hooks import Hookable, as_hook
from unbox.models.run_lock import exclusive
from unbox.site import block_path
from unbox.validation import validated


@validated
class EditHook:
    """Applies edits while attached. `rows`: the images of the run that are edited; None is all of them."""

    edits: Edits
    guard: Guard | None = None

    def attach(self, model: Hookable, rows: Sequence[int] | None = None) -> AbstractContextManager[None]:
        """Context manager; after it, whatever happened inside, no hook is left.

        Raises UnboxError, before anything is installed, for a block the model does not have, a feature its
        SAE does not have, or an edit whose SAE is missing or of another width.
        """
        acting = [edit for edit in self.edits if not edit.identity]
        if not acting:
            return nullcontext()
        saes = {id(edit.sae): sae_of(edit) for edit in acting if edit.sae is not None}
        device = model.device if saes else None  # asked once: diffusers looks through every module for it
        near = {key: copy(sae).to(device=device) for key, sae in saes.items()}
        acting = [replace(edit, sae=near.get(id(edit.sae))) for edit in acting]
        blocks = {edit.block: model.block(edit.block) for edit in acting}
        for block in blocks:
            refuse_compiled(model.unet, block_path(block), block)
        chosen = None if rows is None else frozenset(int(row) for row in rows)
        edited = []
        for block, module in blocks.items():
            width = int(module.in_channels)  # type: ignore[arg-type]
            program = Program(tuple(e for e in acting if e.block == block), width)
            edited.append((module, EditedBlock(program, self.guard, chosen)))
        return _attached(model, edited, chosen, Edits(tuple(acting)))


@as_hook.register
def _(edits: Edit | Edits) -> EditHook:
    return EditHook(Edits.of(edits))


def guarded(edits: Edit | Edits, guard: Guard) -> EditHook:
    """Edits under a guard, for `generate(edits=...)`; `guard.report()` tells how often it acted."""
    return EditHook(Edits.of(edits), guard)


def applied(
    model: Hookable, edits: Edit | Edits | None, guard: Guard | None = None, *, wait: bool = True
) -> AbstractContextManager[None]:
    """`with applied(model, edits): model.pipeline("a dog")` edits any diffusers call.

    Recording inside it (`unbox.record`) sees the edited updates, recording around it the unedited ones. This
    thread has the model alone meanwhile; where another has it, this one waits or, without `wait`, raises
    UnboxError that names it.
    """
    return _alone(model, EditHook(Edits.of(edits), guard).attach(model), wait)


@contextmanager
def _alone(model: Hookable, attached: AbstractContextManager[None], wait: bool) -> Iterator[None]:
    with exclusive(model, "edits", wait), attached:
        yield


@contextmanager
def _attached(
    model: Hookable,
    edited: Sequence[tuple[torch.nn.Module, "EditedBlock"]],
    images: frozenset[int] | None,
    edits: Edits,
) -> Iterator[None]:
    with ExitStack() as stack:
        now = stack.enter_context(clock(model))
        stack.enter_context(now.finite.edited(images, edits))
        for module, block in edited:
            stack.callback(module.register_forward_hook(block.hook(now), with_kwargs=True).remove)
        yield


@dataclass(frozen=True)
class EditedBlock:
    """A block's program on the rows of a batch that it is for."""

    program: Program
    guard: Guard | None
    images: frozenset[int] | None

    def hook(self, now: Clock) -> Any:
        """Forward hook of a transformer block, whose hidden states are (batch, d, y, x)."""

        def edit(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            edited = self.edited(hidden, output[0], now)
            if edited is output[0]:
                return None
            return (edited, *output[1:]) if isinstance(output, tuple) else type(output)(sample=edited)

        return edit

    def edited(self, hidden: Tensor, output: Tensor, now: Clock) -> Tensor:
        """The block's output after its edits; the very same tensor when nothing acts. Never in place.

        Each row's branch and image come from the clock.
        """
        result = output
        for branch in sorted(set(now.branches)):
            rows = self._rows(now, branch)
            if not rows:
                continue
            if len(rows) == len(output):
                delta = self._delta(hidden, output, now.step, branch)
                result = result if delta is None else result + delta
                continue
            chosen = torch.tensor(rows, device=output.device)
            delta = self._delta(hidden[chosen], output[chosen], now.step, branch)
            if delta is not None:
                result = result.index_add(0, chosen, delta.expand(len(rows), *output.shape[1:]))
        return result

    def _rows(self, now: Clock, branch: str) -> list[int]:
        owners = zip(now.branches, now.samples, strict=True)
        return [
            row
            for row, (its, image) in enumerate(owners)
            if its == branch and (self.images is None or int(image) in self.images)
        ]

    def _delta(self, hidden: Tensor, output: Tensor, step: int, branch: str) -> Tensor | None:
        """What to add to rows of one branch: broadcastable to (rows, d, y, x), in the output's dtype."""
        needed = self.program.reads or self.guard is not None
        update = (output - hidden).permute(0, 2, 3, 1).float() if needed else None
        delta = self.program.delta(output.permute(0, 2, 3, 1), update, step, branch)
        if delta is not None and self.guard is not None and update is not None:
            delta = self.guard.delta(self.program.edits[0].block, update, delta.expand_as(update))
        return None if delta is None else delta.permute(0, 3, 1, 2).to(output)
