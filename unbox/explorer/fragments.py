"""Fragments of HTML that are not yet templates."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from PIL import Image

from unbox.explorer.feature_summaries import FeatureChip
from unbox.explorer.html import render
from unbox.image_uri import image_uri as uri


def go(**asked: Any) -> str:
    """Attribute of a button that asks for something."""
    return f'data-go="{escape(json.dumps(asked))}"'


def picture(image: Image.Image, caption: str = "", css: str = "") -> str:
    """A picture with a line under it."""
    return (
        f'<figure class="ub-figure {css}"><img alt="{escape(caption)}" src="{uri(image)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def slider(before: Image.Image, after: Image.Image) -> str:
    """Two pictures, the second uncovered by a slider."""
    return (
        f'<div class="ub-compare" style="--ratio:{before.width}/{before.height}">'
        f'<img alt="before" src="{uri(before)}"><img class="ub-after" alt="after" src="{uri(after)}">'
        '<span class="ub-edge"></span><span class="ub-tag">before</span><span class="ub-tag ub-right">after'
        "</span></div>"
        '<div class="ub-under"><label class="ub-slider">before <input type="range" min="0" max="100" '
        'value="50" data-cut aria-label="before and after"> after</label></div>'
    )


def chips(title: str, rows: Sequence[FeatureChip]) -> str:
    """Chips under a heading; nothing where there are none."""
    return render("chip_group.html", title=title, rows=rows)
