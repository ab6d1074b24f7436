"""What the Paint page holds: what is wanted (a recipe, its history, the mask in hand) and, apart from it,
what was made. Every change is a new value; a run answers with what was made alone, so that nothing that is
changed meanwhile is lost."""

import base64
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from annotated_types import Le, MaxLen
from PIL import Image

from unbox.edit import Edit, Edits
from unbox.errors import FieldError, UnboxError
from unbox.explorer.image_recipe import Recipe
from unbox.json_types import JSON
from unbox.mask import Mask
from unbox.validation import Count, Text, parsed, validated

#: Cells of a painted mask along the longer side of the picture.
MASK_SIDE = 64
#: Changes that can be undone.
HISTORY = 100


@dataclass(frozen=True, eq=False)
class MadeImage:
    """A picture that was made, beside the one without edits, and what it is of."""

    recipe: Recipe
    """Of `after`; without edits where there is only `before`."""
    before: Image.Image
    after: Image.Image | None = None
    wanted: Recipe | None = None
    """What was asked for where that is another: `recipe` has random features in place of its edits."""

    @property
    def asked(self) -> Recipe:
        """The recipe that was asked for."""
        return self.recipe if self.wanted is None else self.wanted


@dataclass(frozen=True, eq=False)
class CanvasState:
    """What one visitor of the Paint page wants made."""

    recipe: Recipe
    past: tuple[tuple[Recipe, Mask | None], ...] = ()
    future: tuple[tuple[Recipe, Mask | None], ...] = ()
    mask: Mask | None = None
    """What is painted, not yet given to an edit."""
    chosen: int | None = None
    """The edit that the controls show."""

    def changed(self, recipe: Recipe, chosen: int | None = None) -> "CanvasState":
        """The state with another recipe; undo brings this one back."""
        if recipe == self.recipe:
            return replace(self, chosen=chosen)
        return replace(self._remembered(), recipe=recipe, chosen=chosen)

    def painted(self, mask: Mask | None) -> "CanvasState":
        """The state after a stroke: another mask in hand; undo brings this one back."""
        return self if mask == self.mask else replace(self._remembered(), mask=mask)

    def with_settings(self, recipe: Recipe) -> "CanvasState":
        """The edits of this state with the prompt, seed and so on of another recipe."""
        return replace(self, recipe=replace(recipe, edits=self.recipe.edits, off=self.recipe.off))

    def _remembered(self) -> "CanvasState":
        return replace(self, past=(*self.past, (self.recipe, self.mask))[-HISTORY:], future=())

    def undo(self) -> "CanvasState":
        """Before the last change or stroke. Raises UnboxError when there was none."""
        if not self.past:
            raise UnboxError("there is nothing to undo")
        *past, (recipe, mask) = self.past
        future = ((self.recipe, self.mask), *self.future)
        return replace(self, recipe=recipe, mask=mask, past=tuple(past), future=future, chosen=None)

    def redo(self) -> "CanvasState":
        """After the change that was undone."""
        if not self.future:
            raise UnboxError("there is nothing to redo")
        (recipe, mask), *future = self.future
        past = (*self.past, (self.recipe, self.mask))
        return replace(self, recipe=recipe, mask=mask, past=past, future=tuple(future), chosen=None)

    def add(self, edit: Edit) -> "CanvasState":
        """One more edit, at the end."""
        edits = self.recipe.edits + edit
        return self.changed(replace(self.recipe, edits=edits), len(edits) - 1)

    def replace_chosen(self, edit: Edit) -> "CanvasState":
        """The chosen edit replaced."""
        index, edits = self._index(self.chosen), tuple(self.recipe.edits)
        edits = (*edits[:index], edit, *edits[index + 1 :])
        return self.changed(replace(self.recipe, edits=Edits(edits)), index)

    def choose(self, index: int) -> "CanvasState":
        """Show an edit in the controls, its mask on the picture."""
        edit = self.recipe.edits[self._index(index)]
        return replace(self, chosen=index, mask=edit.where)

    def toggle(self, index: int) -> "CanvasState":
        """Switch an edit on or off."""
        return self.changed(replace(self.recipe, off=self.recipe.off ^ {self._index(index)}), self.chosen)

    def remove(self, index: int) -> "CanvasState":
        """Take an edit out."""
        index = self._index(index)
        return self.changed(self._ordered([i for i in range(len(self.recipe.edits)) if i != index]))

    def move(self, index: int, by: int) -> "CanvasState":
        """Exchange an edit with the one before (-1) or after (+1); at the ends nothing happens."""
        other = self._index(index) + by
        if not 0 <= other < len(self.recipe.edits):
            return self
        order = list(range(len(self.recipe.edits)))
        order[index], order[other] = other, index
        return self.changed(self._ordered(order), other)

    def _ordered(self, order: list[int]) -> Recipe:
        edits = Edits(tuple(self.recipe.edits[i] for i in order))
        off = frozenset(new for new, old in enumerate(order) if old in self.recipe.off)
        return replace(self.recipe, edits=edits, off=off)

    def _index(self, index: int | None) -> int:
        if index is None or not 0 <= index < len(self.recipe.edits):
            raise FieldError(
                "", "edit", index, f"should be one of the list, which has {len(self.recipe.edits)}"
            )
        return index


@validated
class PaintedMask:
    """What the page's canvas sends."""

    mask: Annotated[Text, MaxLen(4 * MASK_SIDE * MASK_SIDE)]
    width: Annotated[Count, Le(MASK_SIDE)]
    height: Annotated[Count, Le(MASK_SIDE)]


def mask_from_canvas(mask: JSON, width: JSON, height: JSON) -> Mask | None:
    """The mask that the page's canvas sends: base64 of a level a cell. None where nothing is painted.

    Raises UnboxError for what no canvas of ours sends.
    """
    given = {"mask": mask, "width": width, "height": height}
    canvas = parsed(PaintedMask, given, "canvas")
    try:
        levels = np.frombuffer(base64.b64decode(canvas.mask, validate=True), np.uint8)
        array = levels.reshape(canvas.height, canvas.width).astype(np.float32) / 255
    except ValueError as error:
        raise FieldError("canvas", "mask", mask, f"should be a level a cell, in base64: {error}") from error
    return Mask.of(array) if array.any() else None


def mask_size(recipe: Recipe) -> tuple[int, int]:
    """(width, height) of the canvas for a picture, in cells."""
    longest = max(recipe.width, recipe.height)
    return max(1, MASK_SIDE * recipe.width // longest), max(1, MASK_SIDE * recipe.height // longest)


def mask_to_canvas(mask: Mask | None, size: tuple[int, int]) -> str:
    """A mask for the canvas: base64 of a level a cell; empty for none and for the feature's own map."""
    if mask is None or mask.own:
        return ""
    levels = mask_levels(mask, *size)
    return base64.b64encode(np.rint(255 * levels).astype(np.uint8).tobytes()).decode("ascii")


def mask_levels(mask: Mask, width: int, height: int) -> np.ndarray:
    """(height, width) levels of a mask, the largest where it has more axes."""
    levels = mask.on(height, width)
    return levels.max(tuple(range(levels.ndim - 2)))
