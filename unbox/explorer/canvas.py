"""The Paint page's pieces of HTML: the canvas, before and after."""

import numpy as np
from PIL import Image

from unbox.edit import Edits
from unbox.explorer.canvas_state import (
    MASK_SIDE,
    CanvasState,
    MadeImage,
    mask_levels,
    mask_size,
    mask_to_canvas,
)
from unbox.explorer.html import render
from unbox.explorer.image_difference import difference_image, mean_change
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.layers import colour_of, summary
from unbox.explorer.photo_start import fidelity_note
from unbox.explorer.random_draws import draw_notes
from unbox.explorer.served_pictures import PICTURES


def canvas_html(state: CanvasState, made: MadeImage | None) -> str:
    """The picture to paint on, with the tools."""
    size = mask_size(state.recipe)
    image, mask = None if made is None else made.before, mask_to_canvas(state.mask, size)
    layer = len(state.recipe.edits) if state.chosen is None else state.chosen
    return render(
        "canvas.html", image=image, recipe=state.recipe, size=size, mask=mask, colour=colour_of(layer)
    )


def stale_html(made: MadeImage | None, now: Recipe | None, rerun: str = "") -> str:
    """A badge where what is wanted now (None: what cannot be) is not what the picture shown was made of.
    `rerun`: a text of its own for each change, where it is made again by itself."""
    if made is None:
        return ""
    drawn = made.after is not None or now is None or made.asked != now.plain
    unedited = not drawn and now is not None and not len(now.active)  # the picture that is painted on
    same = unedited or (now is not None and made.asked == now)
    return "" if same else render("stale.html", drawn=drawn, rerun=rerun)


def changes(before: Image.Image, after: Image.Image, edits: Edits) -> list[str]:
    """How far the picture is from the one without edits, in mean absolute change of 255.

    Inside and outside of the union of the painted masks, and inside that of each edit where there are
    several; of the whole picture where an edit acts everywhere or where its feature fires: there is no
    outside then.
    """
    whole = f"mean change {mean_change(before, after)[0]:.1f} (of 255)"
    if any(edit.where is None for edit in edits) or not len(edits):
        return [whole]
    if any(edit.where is not None and edit.where.own for edit in edits):
        return [f"{whole}; where a feature fires is not known as a mask"]
    masks = [mask_levels(edit.where, MASK_SIDE, MASK_SIDE) for edit in edits if edit.where is not None]
    inside, outside = mean_change(before, after, np.maximum.reduce(masks))
    of = "the mask" if len(masks) == 1 else "the masks"
    notes = [f"mean change {inside:.1f} inside {of}, {outside:.1f} outside (of 255)"]
    if len(masks) > 1:
        each = (mean_change(before, after, mask)[0] for mask in masks)
        notes += [
            f"{summary(edit)}: {change:.1f} inside its mask" for edit, change in zip(edits, each, strict=True)
        ]
    return notes


def result_html(made: MadeImage | None) -> str:
    """Before and after, their difference, and the picture to save; how to make them where there are none."""
    if made is None or made.after is None:
        return render("edit_result.html", after=None)
    before, after, recipe = made.before, made.after, made.recipe
    notes = changes(before, after, recipe.active) if made.wanted is None else draw_notes(made)
    if made.fidelity is not None:
        notes.insert(0, fidelity_note(made.fidelity))
    if made.artifact is not None and len(recipe.active):
        notes.append(made.artifact.note)
    if made.wanted is not None:
        notes.insert(0, f"random features instead: {', '.join(summary(edit) for edit in recipe.active)}")
    difference, png = difference_image(before, after), PICTURES.image(after, recipe.to_json())
    draws = made.draws if made.wanted is not None else ()
    return render("edit_result.html", before=before, after=after, notes=notes, seed=recipe.seed,
                  difference=difference, png=png, draws=draws)  # fmt: skip
