"""The Paint page's pieces of HTML: the canvas, the list of edits, before and after."""

from PIL import Image

from unbox.edit import Edit, Edits
from unbox.explorer.canvas_state import CanvasState, mask_levels, mask_size, mask_to_canvas
from unbox.explorer.html import render
from unbox.explorer.image_difference import difference_image, mean_change


def canvas_html(state: CanvasState) -> str:
    """The picture to paint on, with the tools."""
    size = mask_size(state.recipe)
    mask = mask_to_canvas(state.mask, size)
    return render("canvas.html", image=state.before, recipe=state.recipe, size=size, mask=mask)


def edits_html(state: CanvasState) -> str:
    """The list of edits with its buttons."""
    off = state.recipe.off
    rows = [(edit.summary, _detail(edit), i not in off) for i, edit in enumerate(state.recipe.edits)]
    return render("edit_list.html", edits=rows, chosen=state.chosen)


def _detail(edit: Edit) -> str:
    """When and where an edit acts: `steps 0–1, masked, cond`."""
    when = "all steps" if edit.steps is None else f"steps {edit.steps[0]}\u2013{edit.steps[1] - 1}"
    where = "everywhere" if edit.where is None else "where it fires" if edit.where.own else "masked"
    return ", ".join([when, where] + [edit.branch] * (edit.branch != "both"))


def _change(before: Image.Image, after: Image.Image, edits: Edits) -> str:
    """How far the picture is from the one without edits, inside and outside of the first painted mask."""
    masks = [edit.where for edit in edits if edit.where is not None and not edit.where.own]
    if not masks:
        return f"mean change {mean_change(before, after)[0]:.1f} (of 255)"
    inside, outside = mean_change(before, after, mask_levels(masks[0], 64, 64))
    return f"mean change {inside:.1f} inside the mask, {outside:.1f} outside (of 255)"


def result_html(state: CanvasState) -> str:
    """Before and after, their difference, and the picture to save; how to make them where there are none."""
    before, after, recipe = state.before, state.after, state.after_recipe
    if before is None or after is None or recipe is None:
        return render("edit_result.html", after=None)
    note = _change(before, after, recipe.active)
    if recipe.edits != state.recipe.edits:
        note = f"random features instead: {', '.join(edit.summary for edit in recipe.active)}; {note}"
    difference, png = difference_image(before, after), recipe.to_png_uri(after)
    return render("edit_result.html", before=before, after=after, note=note, seed=recipe.seed,
                  difference=difference, png=png)  # fmt: skip
