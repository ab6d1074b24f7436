"""The strength strip: a feature alone, and one picture at each of several strengths of it."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import gradio as gr
from PIL import Image

from unbox.edit import Edits
from unbox.explorer.html import render
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import progress_callback

#: Strengths of the pictures, one picture for each, in the block's deviations.
STRENGTHS = (-4.0, -2.0, 0.0, 2.0, 4.0, 8.0)
#: Strength of the icon: the feature alone, in mean activations.
ICON = 4.0


@dataclass(frozen=True)
class StrengthStrip:
    """The feature alone, on an empty prompt; and the pictures, in the order of STRENGTHS."""

    icon: Image.Image
    pictures: Sequence[Image.Image]


def generate_strip(
    session: ExplorerSession, name: str, prompt: str, seed: int = 0,
    stop: threading.Event | None = None, progress: gr.Progress | None = None,
) -> StrengthStrip:  # fmt: skip
    """All pictures of the strip, in one batch. Raises UnboxError for a feature that is not there."""
    feature = session.feature(name)
    plain = Recipe.from_json({**session.defaults(session.default).to_json(), "prompt": prompt, "seed": seed})
    stats = None if feature.sae is None else feature.sae.stats
    if stats is not None and float(stats.mean_active[feature.index]) > 0:
        alone = feature.replace(ICON, unit="mean")
    else:
        alone = feature.replace(1.0, unit="deviation")
    recipes = [replace(plain, prompt="", edits=Edits((alone,)))]
    for strength in STRENGTHS:
        edits = Edits((feature.add(strength, unit="deviation"),)) if strength else Edits()
        recipes.append(replace(plain, edits=edits))
    icon, *pictures = session.generate(recipes, stop, progress_callback(progress, plain.steps))
    return StrengthStrip(icon, pictures)


def strip_html(name: str, strip: StrengthStrip) -> str:
    """The strip of a feature as HTML."""
    pictures = list(zip(STRENGTHS, strip.pictures, strict=True))
    return render("strength_strip.html", name=name, icon=strip.icon, pictures=pictures)
