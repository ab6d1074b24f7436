"""What the Paint page holds: what is wanted (a recipe whose edits are layers, its history) and what was made.

Every change is a new value; a run answers with what was made alone, so that nothing that is changed meanwhile
is lost."""

import base64
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from annotated_types import Le, MaxLen
from PIL import Image

from unbox.edit import Edit, Edits
from unbox.errors import FieldError, UnboxError
from unbox.explorer.artifact_figure import ArtifactFigure
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
    fidelity: dict[str, float] | None = None
    """How faithfully the photo that it starts from is drawn again, in dB."""
    wanted: Recipe | None = None
    """What was asked for where that is another: `recipe` has random features in place of its edits."""
    edited: Image.Image | None = None
    """With the edits that were asked for, where `after` is of random features."""
    draws: tuple[tuple[Recipe, Image.Image], ...] = ()
    """Random controls and their pictures; `after` is the first of them."""
    artifact: ArtifactFigure | None = None
    """How strange `after` is, where a critic knows such pictures."""

    @property
    def asked(self) -> Recipe:
        """The recipe that was asked for."""
        return self.recipe if self.wanted is None else self.wanted


@dataclass(frozen=True, eq=False)
class CanvasState:
    """What one visitor of the Paint page wants made: a recipe whose edits are layers, and its history."""

    recipe: Recipe
    past: tuple[Recipe, ...] = ()
    future: tuple[Recipe, ...] = ()
    chosen: int | None = None
    """The layer that the controls show and that strokes change."""
    held: int | None = None
    """The layer whose strength is being dragged: what follows is of the same change."""

    @property
    def mask(self) -> Mask | None:
        """Where the chosen layer acts; None for everywhere, and where none is chosen."""
        return None if self.chosen is None else self.recipe.edits[self.chosen].where

    def changed(self, recipe: Recipe, chosen: int | None = None) -> "CanvasState":
        """The state with another recipe; undo brings this one back."""
        if recipe == self.recipe:
            return replace(self, chosen=chosen, held=None)
        past = (*self.past, self.recipe)[-HISTORY:]
        return replace(self, recipe=recipe, past=past, future=(), chosen=chosen, held=None)

    def stroke(self, mask: Mask, new: Edit | None) -> "CanvasState":
        """After a stroke: another mask of the chosen layer, or a new layer there where none is chosen."""
        if self.chosen is None:
            return self if new is None else self.add(replace(new, where=mask))
        return self.replace_chosen(replace(self.recipe.edits[self.chosen], where=mask))

    def with_strength(self, index: int, value: float, held: bool = False) -> "CanvasState":
        """Another strength of a layer. `held`: its slider is still held, so that what follows is undone with
        it."""
        edits = list(self.recipe.edits)
        edits[self._index(index)] = replace(edits[index], value=value)
        recipe = replace(self.recipe, edits=Edits(tuple(edits)))
        if self.held == index:
            return replace(self, recipe=recipe, chosen=index, held=index if held else None)
        return replace(self.changed(recipe, index), held=index if held else None)

    def with_settings(self, recipe: Recipe) -> "CanvasState":
        """The layers of this state with the prompt, seed and so on of another recipe."""
        return replace(self, recipe=replace(recipe, edits=self.recipe.edits, off=self.recipe.off))

    def undo(self) -> "CanvasState":
        """Before the last change. Raises UnboxError when there was none."""
        if not self.past:
            raise UnboxError("there is nothing to undo")
        *past, recipe = self.past
        return self._at(recipe, tuple(past), (self.recipe, *self.future))

    def redo(self) -> "CanvasState":
        """After the change that was undone."""
        if not self.future:
            raise UnboxError("there is nothing to redo")
        recipe, *future = self.future
        return self._at(recipe, (*self.past, self.recipe), tuple(future))

    def _at(self, recipe: Recipe, past: tuple[Recipe, ...], future: tuple[Recipe, ...]) -> "CanvasState":
        """Layers of the history, settings of now; the layer that is chosen stays where it is still there."""
        kept = self.chosen is not None and self.chosen < len(recipe.edits)
        settings = replace(self.recipe, edits=recipe.edits, off=recipe.off, photo=recipe.photo)
        return CanvasState(settings, past, future, self.chosen if kept else None)

    def add(self, edit: Edit) -> "CanvasState":
        """One more layer, at the end."""
        edits = self.recipe.edits + edit
        return self.changed(replace(self.recipe, edits=edits), len(edits) - 1)

    def replace_chosen(self, edit: Edit) -> "CanvasState":
        """The chosen layer replaced."""
        index, edits = self._index(self.chosen), tuple(self.recipe.edits)
        edits = (*edits[:index], edit, *edits[index + 1 :])
        return self.changed(replace(self.recipe, edits=Edits(edits)), index)

    def choose(self, index: int | None) -> "CanvasState":
        """Show a layer in the controls, its mask on the picture; None lets go of it."""
        return replace(self, chosen=None if index is None else self._index(index), held=None)

    def toggle(self, index: int) -> "CanvasState":
        """Switch an edit on or off."""
        return self.changed(replace(self.recipe, off=self.recipe.off ^ {self._index(index)}), self.chosen)

    def remove(self, index: int) -> "CanvasState":
        """Take an edit out."""
        index = self._index(index)
        return self.changed(self._ordered([i for i in range(len(self.recipe.edits)) if i != index]))

    def move(self, index: int, to: int) -> "CanvasState":
        """Take a layer to another place of the list; beyond its ends is at them."""
        order = [i for i in range(len(self.recipe.edits)) if i != self._index(index)]
        to = min(max(to, 0), len(order))
        return self.changed(self._ordered([*order[:to], index, *order[to:]]), to)

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


def mask_from_canvas(mask: JSON, width: JSON, height: JSON) -> Mask:
    """The mask that the page's canvas sends: base64 of a level a cell.

    Raises UnboxError for what no canvas of ours sends.
    """
    given = {"mask": mask, "width": width, "height": height}
    canvas = parsed(PaintedMask, given, "canvas")
    try:
        levels = np.frombuffer(base64.b64decode(canvas.mask, validate=True), np.uint8)
        array = levels.reshape(canvas.height, canvas.width).astype(np.float32) / 255
    except ValueError as error:
        raise FieldError("canvas", "mask", mask, f"should be a level a cell, in base64: {error}") from error
    return Mask.of(array)


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
