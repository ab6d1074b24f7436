"""The edits of one block in a run: which act on which rows of a batch, applied by one hook."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unbox.edits.guard import Guard
from unbox.edits.program import Program
from unbox.models.clock import Clock
from unbox.models.devices import to_device


@dataclass(frozen=True)
class ImageEdits:
    """Edits of one block, and the images of the run that they are for."""

    program: Program
    guard: Guard | None = None
    images: frozenset[int] | None = None
    """None: all."""

    @property
    def of_both_branches(self) -> bool:
        """Whether they do on one branch what they do on the other."""
        return all(edit.branch == "both" for edit in self.program.edits)

    def delta(self, hidden: Tensor, output: Tensor, step: int, branch: str) -> Tensor | None:
        """What to add to rows (rows, d, y, x) of one branch: broadcastable to them, in the output's dtype."""
        needed = self.program.reads or self.guard is not None
        # As recording has it (`unbox.capture.activation_hooks.update`): subtracted in float32.
        update = (output.float() - hidden.float()).permute(0, 2, 3, 1) if needed else None
        delta = self.program.delta(output.permute(0, 2, 3, 1), update, step, branch)
        if delta is not None and self.guard is not None and update is not None:
            delta = self.guard.delta(self.program.edits[0].block, update, delta.expand_as(update))
        return None if delta is None else delta.permute(0, 3, 1, 2).to(output.dtype)


class _Rows(NamedTuple):
    """Rows of a batch on which some edits act, of one branch or, where they are the same on both, of both."""

    edits: ImageEdits
    branch: str
    number: int
    place: slice | Tensor


class EditedBlock:
    """A table of the edits of one block by the images that they are for.

    A forward costs one pass over the rows that are edited, however many edits there are for other images.
    """

    def __init__(self, edits: Sequence[ImageEdits]) -> None:
        self.edits = tuple(edits)
        self._of_all = [each for each in self.edits if each.images is None]
        self._of_image: dict[int, list[ImageEdits]] = defaultdict(list)
        for each in self.edits:
            for image in each.images or ():
                self._of_image[image].append(each)
        self._key: tuple[object, ...] = ()
        self._rows: list[_Rows] = []

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

        Each row's branch and image come from the clock. Edits of one row are read from its own output, and
        what they add is summed.
        """
        result = output
        for rows in self._rows_of(now, output.device):
            whole = rows.number == len(output)
            given, made = (hidden, output) if whole else (hidden[rows.place], output[rows.place])
            delta = rows.edits.delta(given, made, now.step, rows.branch)
            if delta is None:
                continue
            if whole:
                result = result + delta
                continue
            result = output.clone() if result is output else result
            if isinstance(rows.place, slice):
                result[rows.place].add_(delta)
            else:
                result.index_add_(0, rows.place, delta.expand(rows.number, *output.shape[1:]))
        return result

    def _rows_of(self, now: Clock, device: torch.device) -> list[_Rows]:
        """The rows that each of the edits acts on; found once for a batch of images."""
        key = (now.branches, now.samples.tobytes(), device)
        if key != self._key:
            found: dict[tuple[int, str], tuple[ImageEdits, list[int]]] = {}
            owners = zip(now.samples.tolist(), now.branches, strict=True)
            for row, (image, branch) in enumerate(owners):
                for each in (*self._of_all, *self._of_image.get(image, ())):
                    same = "cond" if each.of_both_branches else branch
                    found.setdefault((id(each), same), (each, []))[1].append(row)
            self._rows = [
                _Rows(each, branch, len(rows), _place(rows, device))
                for (_, branch), (each, rows) in found.items()
            ]
            self._key = key
        return self._rows


def _place(rows: Sequence[int], device: torch.device) -> slice | Tensor:
    """Rows as a slice, a view that costs nothing, or else their indices on the device."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return slice(rows[0], rows[-1] + 1)
    return to_device(torch.tensor(rows), device)
