"""Compare: one prompt and seed under two systems, or with and without the edits that are painted."""

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import numpy as np

from unbox.explorer import controls, pictures, seen, views
from unbox.explorer.controls import Controls
from unbox.explorer.lab import Lab, Sight
from unbox.explorer.parts import Shell, link
from unbox.explorer.recipe import Recipe
from unbox.explorer.shell import live, on
from unbox.words import UnboxError

TITLE = "Compare"
PAINTED = "with the edits of Paint"
ABOUT = "Two pictures of one prompt and seed, and the features that differ."
#: Features shown of each side and block.
SHOWN = 8


@dataclass(frozen=True)
class Parts:
    """The page's components."""

    controls: Controls
    other: Any
    make: Any
    stop: Any
    result: Any


def draw(lab: Lab, first: Recipe) -> Parts:
    """The page's components; call inside its tab."""
    with gr.Row(elem_classes="ub-page"):
        with gr.Column(scale=4, min_width=320):
            own = controls.draw(lab, first, "compare")
            choices = [PAINTED, *lab.systems]
            other = gr.Dropdown(choices, value=choices[-1], label="Against", elem_id="compare-other")
            with gr.Row():
                make = gr.Button("Compare", variant="primary", elem_id="compare-make", min_width=100)
                stop = gr.Button("Stop", min_width=60)
        with gr.Column(scale=6, min_width=320):
            result = live(f'<p class="ub-none">{ABOUT}</p>', elem_id="compare-result")
    return Parts(own, other, make, stop, result)


def wire(shell: Shell) -> None:
    """The page's events."""
    lab, parts, paint = shell.lab, shell.pages["compare"], shell.pages["paint"]
    inputs = {*parts.controls.components, parts.other, paint.sheet}

    def run(data: dict, request: gr.Request) -> tuple[str, str]:
        recipe = controls.recipe_of(parts.controls, data)
        other, sheet = data[parts.other], data[paint.sheet]
        second = against(lab, recipe, other, sheet.recipe)
        with shell.stops.running(request) as stop:
            one, two = lab.look(recipe, stop), lab.look(second, stop)
        return compared(lab, one, two), link("compare", r=recipe.to_link(), other=other)

    shell.linked(on(parts.make.click, run, inputs, [parts.result, shell.link], device=True))
    on(parts.stop.click, shell.stops.stop, None, None, queue=False)
    system, _, _, *sizes = parts.controls.components[:7]
    on(parts.controls.system.input, lambda name: controls.settings_of(lab, name), [system], sizes,
       show_progress="hidden")  # fmt: skip


def against(lab: Lab, recipe: Recipe, other: str, painted: Recipe) -> Recipe:
    """The second picture's recipe: the painted edits, or another system at its own steps and guidance."""
    if other == PAINTED:
        if not len(painted.active):
            raise UnboxError("Paint has no edit that is on: add one there, or choose a system here")
        return replace(recipe, edits=painted.edits, off=painted.off, guard=painted.guard)
    own = lab.defaults(other)
    if other == recipe.system:
        return recipe
    return replace(recipe, system=other, steps=own.steps, guidance=own.guidance,
                   height=own.height, width=own.width)  # fmt: skip


def compared(lab: Lab, one: Sight, two: Sight) -> str:
    """Both pictures, their difference, and the features that fire more in either, as HTML."""
    names = [_named(sight.recipe) for sight in (one, two)]
    body = "".join(views.picture(s.image, name) for s, name in zip((one, two), names, strict=True))
    if one.image.size == two.image.size:
        body += views.picture(pictures.difference(one.image, two.image).convert("RGB"), "difference")
    sections = []
    for sae in one.values:
        if sae not in two.values:
            continue
        change = totals(two, sae, lab.saes[sae].latents) - totals(one, sae, lab.saes[sae].latents)
        weight = lab.rarity(sae)
        order = np.argsort(-(change if weight is None else change * weight), kind="stable")
        sides = (
            (f"{sae}: more in {names[1]}", [(i, change[i]) for i in order[:SHOWN] if change[i] > 0]),
            (f"{sae}: more in {names[0]}", [(i, -change[i]) for i in order[::-1][:SHOWN] if change[i] < 0]),
        )
        for title, rows in sides:
            found = [(f"{sae}/{i}", float(v)) for i, v in rows]
            sections.append(views.chips(title, seen.feature_chips(lab, found)))
    return f'<div class="ub-strip ub-three">{body}</div>' + "".join(sections)


def totals(sight: Sight, sae: str, latents: int) -> np.ndarray:
    """(latents,) activation summed over places, as a mean over places, steps and branches."""
    values, indices = sight.values[sae], sight.indices[sae]
    summed = np.bincount(indices.ravel(), values.ravel().astype(np.float64), latents)
    return summed / max(1, values[..., 0].size)


def _named(recipe: Recipe) -> str:
    return f"{recipe.system}, {len(recipe.active)} edits" if len(recipe.active) else recipe.system
