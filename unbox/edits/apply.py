"""Edits on a running model: hooks that go on and off in a context manager."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Self

import torch

from unbox.capture.compiled import refuse_compiled
from unbox.edit import Edit, Edits
from unbox.edits.edited_block import EditedBlock, ImageEdits
from unbox.edits.guard import Guard
from unbox.edits.layout import Maps
from unbox.edits.placement import copies_of
from unbox.edits.program import Program
from unbox.models.block_hooks import hook_block
from unbox.models.clock import clock
from unbox.models.hooks import Hook, Hookable, as_hook
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
        return _attachment(model, [(self, rows)])

    @classmethod
    def together(cls, hooks: Sequence[tuple[Self, Sequence[int] | None]]) -> Hook:
        """One for the edits of several images, with one hook on each block; each with its images."""
        return _EditsOfImages(hooks)


class _EditsOfImages:
    """The edits of several images."""

    def __init__(self, hooks: Sequence[tuple[EditHook, Sequence[int] | None]]) -> None:
        self.hooks = hooks

    def attach(self, model: Hookable, rows: Sequence[int] | None = None) -> AbstractContextManager[None]:
        """As `EditHook.attach`; the images are those that each came with."""
        return _attachment(model, self.hooks)


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


#: Images (None: all) and the edits that act on them.
ActingEdits = list[tuple[frozenset[int] | None, Edits]]


def _attachment(
    model: Hookable, hooks: Sequence[tuple[EditHook, Sequence[int] | None]]
) -> AbstractContextManager[None]:
    """Hooks with their images, checked and put together by block; nothing is copied or installed yet."""
    by_block: dict[str, list[ImageEdits]] = defaultdict(list)
    modules: dict[str, torch.nn.Module] = {}
    acting: ActingEdits = []
    maps, place = Maps(), copies_of(model.unet).on
    for hook, rows in hooks:
        edits = Edits(tuple(edit for edit in hook.edits if not edit.identity))
        images = None if rows is None else frozenset(int(row) for row in rows)
        if len(edits):
            acting.append((images, edits))
        for block in edits.blocks:
            if block not in modules:
                modules[block] = model.block(block)
                refuse_compiled(model.unet, block_path(block), block)
            width = int(modules[block].in_channels)  # type: ignore[arg-type]
            program = Program(tuple(edit for edit in edits if edit.block == block), width, maps, place)
            by_block[block].append(ImageEdits(program, hook.guard, images))
    edited = [(modules[block], EditedBlock(some)) for block, some in by_block.items()]
    return _attached(model, edited, acting) if acting else nullcontext()


@contextmanager
def _attached(
    model: Hookable, edited: Sequence[tuple[torch.nn.Module, EditedBlock]], acting: ActingEdits
) -> Iterator[None]:
    with ExitStack() as stack:
        now = stack.enter_context(clock(model))
        for images, edits in acting:
            stack.enter_context(now.finite.edited(images, edits))
        programs = [each.program for _, block in edited for each in block.edits]
        readers = {id(sae): sae for program in programs for sae in program.read_by}
        if readers:
            device = model.device  # asked once: diffusers looks through every module for it
            copies = copies_of(model.unet)
            held = [copies.on(sae, device) for sae in readers.values()]
            stack.callback(held.clear)
        for module, block in edited:
            stack.callback(hook_block(module, block.hook(now)).remove)
        yield
