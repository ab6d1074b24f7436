"""The layers of the Paint page: each edit in a row, with its colour, label, strength and mask."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unbox.edit import Edit
from unbox.errors import UnboxError
from unbox.explorer.canvas_state import CanvasState, mask_levels
from unbox.explorer.feature_scale import scale_of_layer
from unbox.explorer.feature_summaries import cover, facts_of, label_of
from unbox.explorer.html import render
from unbox.explorer.served_pictures import PICTURES
from unbox.explorer.session import ExplorerSession
from unbox.image_uri import PictureFile, image_uri

#: Colours of layers and of their masks, RGB; after the last the first comes again.
COLOURS = ((255, 92, 24), (40, 140, 255), (46, 170, 80), (214, 64, 190), (232, 176, 0), (0, 172, 172))
#: Strengths of the slider from, to; a layer's own may lie beyond.
SLIDER = {
    "add": (-8.0, 8.0),
    "set": (-8.0, 8.0),
    "replace": (-8.0, 8.0),
    "scale": (0.0, 8.0),
    "swap": (0.0, 1.0),
}
#: Pixels of a mask's thumbnail.
THUMBNAIL = 40


@dataclass(frozen=True)
class Layer:
    """A row, as `templates/layers.html` draws it."""

    name: str
    label: str
    score: float | None
    cover: PictureFile | None
    detail: str
    on: bool
    colour: str
    mask: str
    """Data URI of where it acts; empty for everywhere and for where it fires."""
    strength: float | None
    """On its slider; None where it has one for each step."""
    low: float
    high: float
    unit: float = 1.0
    """What a strength of 1 on the slider is, in the edit's own unit: where that is calibrated."""
    origin: str = ""
    """Where its scale comes from."""


def colour_of(index: int) -> str:
    """The colour of the layer at an index, as `255 92 24`."""
    return " ".join(map(str, COLOURS[index % len(COLOURS)]))


def layers_html(session: ExplorerSession, state: CanvasState) -> str:
    """The list of layers."""
    edits = tuple(state.recipe.edits)
    known = facts_of(session, _names(session, edits))
    layers = []
    for index, edit in enumerate(edits):
        name = feature_name(edit)
        facts = known.get(name)
        layers.append(Layer(
            name, label_of(session, name, facts), facts.score if facts else None,
            cover(session, name) if facts else None, f"{edit.op}, {detail(edit)}",
            index not in state.recipe.off,
            colour_of(index), mask_uri(edit, index), *_slider(session, edit),
        ))  # fmt: skip
    photo = _photo(session, state)
    return render("layers.html", layers=layers, chosen=state.chosen, photo=photo)


def _slider(session: ExplorerSession, edit: Edit) -> tuple[float | None, float, float, float, str]:
    """Strength on the slider, its ends, what 1 on it is in the edit's unit, where that comes from. It goes
    from 0 to 1 where the strength is calibrated, or as far beyond the strength that it starts at."""
    value = edit.value if isinstance(edit.value, float) else None
    low, high = SLIDER.get(edit.op, (-8.0, 8.0))
    scale = scale_of_layer(session, edit)
    unit = 1.0
    if scale is not None and scale.unit is not None:
        unit, low, high = scale.unit, 0.0, max(1.0, 2 * scale.start / scale.unit - 1)
    elif scale is not None:
        high = max(8.0, 2 * scale.start)
        low = -high
    shown = None if value is None else value / unit
    return (shown, min(low, shown or 0.0), max(high, shown or 0.0), unit,
            "" if scale is None else scale.origin)  # fmt: skip


def feature_name(edit: Edit) -> str:
    """`up.0.1/17`, or what the layer is of where it is of several features or of none."""
    source = edit.source or edit.block
    if len(edit.feature) == 1:
        return f"{source}/{edit.feature[0]}"
    return f"{len(edit.feature)} features of {source}" if edit.feature else f"{edit.subject} of {edit.block}"


def summary(edit: Edit) -> str:
    """What a layer is of and does, short however many features it has."""
    return edit.summary if len(edit.feature) < 2 else f"{feature_name(edit)} {edit.op}"


def detail(edit: Edit) -> str:
    """When and where an edit acts: `steps 0–1, masked, cond`."""
    when = "all steps" if edit.steps is None else f"steps {edit.steps[0]}\u2013{edit.steps[1] - 1}"
    where = "everywhere" if edit.where is None else "where it fires" if edit.where.own else "masked"
    if edit.where is not None and edit.where.empty:
        where = "nowhere"
    return ", ".join([when, where] + [edit.branch] * (edit.branch != "both"))


def mask_uri(edit: Edit, index: int) -> str:
    """The mask of a layer in its colour, small; empty where it has none of its own."""
    if edit.where is None or edit.where.own:
        return ""
    levels = np.clip(np.abs(mask_levels(edit.where, THUMBNAIL, THUMBNAIL)), 0, 1)
    rgba = np.empty((*levels.shape, 4), np.uint8)
    rgba[..., :3] = COLOURS[index % len(COLOURS)]
    rgba[..., 3] = np.rint(255 * levels)
    return image_uri(Image.fromarray(rgba), "PNG")


def _photo(session: ExplorerSession, state: CanvasState) -> str:
    """Address of the photo that the picture starts from; empty where there is none (any more)."""
    try:
        name = state.recipe.photo
        return PICTURES.image(session.photos.photo(name), {}) if name else ""
    except UnboxError:
        return ""


def _names(session: ExplorerSession, edits: Sequence[Edit]) -> list[str]:
    """Names of the single features that are here."""
    return [
        feature_name(edit)
        for edit in edits
        if len(edit.feature) == 1 and session.has_feature(feature_name(edit))
    ]
