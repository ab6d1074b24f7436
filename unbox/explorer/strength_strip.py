"""The strength strip: a feature alone, and one picture at each of several strengths of it."""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from unbox.edit import Edits
from unbox.explorer.html import render
from unbox.explorer.session import ExplorerSession

#: Strengths of the pictures, one picture for each, in the block's deviations.
STRENGTHS = (-4.0, -2.0, 0.0, 2.0, 4.0, 8.0)
#: Strength of the icon: the feature alone, in mean activations.
ICON = 4.0


def generate_strip(session: ExplorerSession, name: str, prompt: str, seed: int = 0) -> list[Image.Image]:
    """The feature alone, on an empty prompt, and the pictures in the order of STRENGTHS, in one batch.

    Raises UnboxError for a feature that is not there.
    """
    feature = session.feature(name)
    plain = replace(session.defaults(session.default), prompt=prompt, seed=seed)
    stats = None if feature.sae is None else feature.sae.stats
    fires = stats is not None and float(stats.mean_active[feature.index]) > 0
    alone = feature.replace(ICON, unit="mean") if fires else feature.replace(1.0, unit="deviation")
    edits = [(feature.add(strength, unit="deviation"),) if strength else () for strength in STRENGTHS]
    recipes = [replace(plain, edits=Edits(each)) for each in edits]
    return session.generate([replace(plain, prompt="", edits=Edits((alone,))), *recipes])


def strip_html(name: str, strip: Sequence[Image.Image]) -> str:
    """The strip of a feature as HTML."""
    icon, *pictures = strip
    named = list(zip(STRENGTHS, pictures, strict=True))
    return render("strength_strip.html", name=name, icon=icon, pictures=named)
