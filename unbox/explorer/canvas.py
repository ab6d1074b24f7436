"""The Paint page's pieces of HTML: the canvas, the list of edits, before and after."""

import base64

from unbox.explorer import fragments, image_uris
from unbox.explorer.canvas_state import Sheet, mask_size, mask_text
from unbox.explorer.image_recipe import describe
from unbox.image_uri import image_uri

EMPTY = (
    '<div class="ub-stage ub-empty"><p>Name a feature, paint where, add the edit, generate.<br>'
    "Before and after appear here.</p></div>"
)
DROP_ZONE = (
    '<label class="ub-drop">Drop a PNG saved here, or <u>choose one</u>, to restore its recipe'
    '<input type="file" accept="image/png" aria-label="PNG to restore"></label>'
)


def canvas_html(sheet: Sheet) -> str:
    """The picture to paint on, with the tools."""
    image = sheet.before
    width, height = mask_size(sheet.recipe)
    base = f'<img class="ub-picture" alt="the picture to paint on" src="{image_uri(image)}">' if image else ""
    return (
        f'<div class="ub-stage ub-paint" style="--ratio:{sheet.recipe.width}/{sheet.recipe.height}">{base}'
        f'<canvas data-paint width="{width}" height="{height}" '
        f'data-mask="{mask_text(sheet.mask, (width, height))}" aria-label="mask"></canvas></div>'
        '<div class="ub-under"><button data-tool="brush" class="ub-chosen">brush</button>'
        '<button data-tool="eraser">eraser</button><button data-tool="all">fill</button>'
        '<button data-tool="clear">clear</button>'
        '<label class="ub-slider">size <input type="range" min="1" max="16" value="4" data-brush '
        'aria-label="size of the brush"></label></div>'
    )


def edits_html(sheet: Sheet) -> str:
    """The list of edits with its buttons."""
    if not len(sheet.recipe.edits):
        return '<p class="ub-none">No edits yet.</p>'
    rows = []
    for place, edit in enumerate(sheet.recipe.edits):
        off = place in sheet.recipe.off
        when = "all steps" if edit.steps is None else f"steps {edit.steps[0]}\u2013{edit.steps[1] - 1}"
        where = "everywhere" if edit.where is None else "where it fires" if edit.where.own else "masked"
        detail = f"{when}, {where}" + (f", {edit.branch}" if edit.branch != "both" else "")
        buttons = "".join(
            f'<button {fragments.go(act=act, place=place)} aria-label="{word}" title="{word}">{sign}</button>'
            for act, word, sign in (
                ("toggle", "on or off", "\u25cb" if off else "\u25cf"), ("up", "up", "\u2191"),
                ("down", "down", "\u2193"), ("remove", "remove", "\u2715"),
            )
        )  # fmt: skip
        css = " ub-off" * off + " ub-chosen" * (place == sheet.chosen)
        rows.append(
            f'<li class="ub-edit{css}"><button class="ub-what" {fragments.go(act="choose", place=place)}>'
            f"<b>{fragments.escape(describe(edit))}</b><small>{fragments.escape(detail)}</small></button>{buttons}</li>"
        )
    return f'<ol class="ub-edits">{"".join(rows)}</ol>'


def result_html(sheet: Sheet) -> str:
    """Before and after, their difference, and the picture to save."""
    if sheet.before is None or sheet.after is None or sheet.made is None:
        return ""
    masks = [edit.where for edit in sheet.made.active if edit.where is not None and not edit.where.own]
    if masks:
        levels = masks[0].on(64, 64)
        inside, outside = image_uris.changed(
            sheet.before,
            sheet.after,
            levels.max(tuple(range(levels.ndim - 2))) if levels.ndim > 2 else levels,
        )
        note = f"mean change {inside:.1f} inside the mask, {outside:.1f} outside (of 255)"
    else:
        note = f"mean change {image_uris.changed(sheet.before, sheet.after)[0]:.1f} (of 255)"
    if sheet.made.edits != sheet.recipe.edits:
        note = f"random features instead: {', '.join(map(describe, sheet.made.active))}; {note}"
    change = image_uris.difference(sheet.before, sheet.after).convert("RGB")
    png = base64.b64encode(image_uris.png_with_recipe(sheet.after, sheet.made.to_json())).decode("ascii")
    return (
        f"{fragments.slider(sheet.before, sheet.after)}"
        f'<div class="ub-pair">{fragments.picture(change, "difference")}'
        f'<div><p>{fragments.escape(note)}</p><a class="ub-save" download="unbox-{sheet.made.seed}.png" '
        f'href="data:image/png;base64,{png}">Save PNG with its recipe</a></div></div>'
    )
