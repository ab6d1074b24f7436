"""Random controls of a picture's edits, several draws of them: how far each changes the picture."""

import numpy as np

from unbox.explorer.canvas_state import MASK_SIDE, MadeImage, mask_levels
from unbox.explorer.image_difference import mean_change


def draw_notes(made: MadeImage) -> list[str]:
    """Mean change by the edits beside that of the draws: their mean, least and largest. Inside the union of
    the masks and outside, where every edit has one."""
    if made.edited is None or not made.draws:
        return []
    edits = tuple(made.asked.active)
    masks = [
        mask_levels(edit.where, MASK_SIDE, MASK_SIDE)
        for edit in edits
        if edit.where is not None and not edit.where.own
    ]
    union = np.maximum.reduce(masks) if masks and len(masks) == len(edits) else None
    places = ("inside the masks", "outside") if union is not None else ("of the whole picture",)
    own = mean_change(made.before, made.edited, union)
    others = np.array([mean_change(made.before, image, union) for _, image in made.draws])
    drawn = [recipe.draw for recipe, _ in made.draws if recipe.draw is not None]
    tail = f"n = {len(others)}, draws {min(drawn, default=0)} to {max(drawn, default=0)}"
    return [
        f"mean change {place} (of 255): edits {own[i]:.1f}, random {others[:, i].mean():.1f} "
        f"({others[:, i].min():.1f} to {others[:, i].max():.1f}), {tail}"
        for i, place in enumerate(places)
    ]
