"""Compare: one prompt and seed under two systems, or with two sets of edits, and the features that differ."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import numpy as np

from unbox.errors import UnboxError
from unbox.explorer import feature_summaries, fragments, generation_controls, image_uris
from unbox.explorer.events import html_component, listen
from unbox.explorer.generation_controls import Controls
from unbox.explorer.image_recipe import Recipe, describe
from unbox.explorer.session import ExplorerSession, RecordedImage
from unbox.explorer.shared_components import SharedComponents, link, progress_callback

TITLE = "Compare"
#: Sides that are no other system.
PLAIN, PAINTED, KEPT, CONTROL = (
    "no edits", "edits of Paint", "edits kept in Paint", "random features in place of Paint's",
)  # fmt: skip
ABOUT = (
    "Two pictures of one prompt and seed, and the features that differ. Choose two sides: no "
    "edits, the edits painted now, those that <b>Keep for Compare</b> on the Paint page has set aside, or "
    "another system."
)
#: Features shown of each side and block.
SHOWN = 6


@dataclass(frozen=True)
class Parts:
    """The page's components."""

    controls: Controls
    left: Any
    right: Any
    make: Any
    stop: Any
    result: Any
    kept: Any
    """The recipe that Paint has set aside, or None."""


def draw(session: ExplorerSession, first: Recipe) -> Parts:
    """The page's components; call inside its tab."""
    own = generation_controls.draw(session, first, "compare")
    others = [name for name in session.systems if name != session.default]
    choices = [PLAIN, PAINTED, KEPT, CONTROL, *others]
    against = others[-1] if others else PAINTED
    with gr.Row(elem_classes="ub-toolbar"):
        make = gr.Button("Compare", variant="primary", elem_id="compare-make", scale=0, min_width=120)
        stop = gr.Button("Stop", scale=0, min_width=70)
        left, right = (
            gr.Dropdown(choices, value=value, label=label, elem_id=f"compare-{label.lower()}", min_width=200)
            for value, label in ((PLAIN, "Left"), (against, "Right"))
        )
    result = html_component(f'<p class="ub-none">{ABOUT}</p>', elem_id="compare-result")
    return Parts(own, left, right, make, stop, result, gr.State(None, time_to_live=3600))


def wire(shared: SharedComponents) -> None:
    """The page's events."""
    session, parts, paint = shared.session, shared.pages["compare"], shared.pages["paint"]
    inputs = {*parts.controls.components, parts.left, parts.right, parts.kept, paint.sheet}

    def run(data: dict, request: gr.Request, progress: gr.Progress = gr.Progress()) -> tuple:  # noqa: B008
        recipe = generation_controls.recipe_of(parts.controls, data)
        sets = {PAINTED: data[paint.sheet].recipe, KEPT: data[parts.kept]}
        one, two = (side(session, recipe, data[choice], sets) for choice in (parts.left, parts.right))
        return looked(shared, one, two, request, progress), link_of(one, two)

    runs = [listen(parts.make.click, run, inputs, [parts.result, shared.link], device=True)]
    runs.append(listen(parts.controls.prompt.submit, run, inputs, [parts.result, shared.link], device=True))
    for each in runs:
        shared.linked(each)
    shared.stoppable(parts.stop, runs)
    system, _, _, *sizes = parts.controls.components[:7]
    listen(
        parts.controls.system.input,
        lambda name: generation_controls.settings_of(session, name),
        [system],
        sizes,
        show_progress="hidden",
    )

    def keep(sheet: Any) -> Recipe:
        if not len(sheet.recipe.active):
            raise UnboxError("there is no edit that is on: add one first")
        gr.Info("Kept: Compare can set these edits beside others.", duration=4)
        return sheet.recipe

    listen(paint.keep.click, keep, [paint.sheet], [parts.kept], show_progress="hidden")


def link_of(one: Recipe, two: Recipe) -> str:
    """The page's link: both recipes, edits and all."""
    return link("compare", r=one.to_link(), other=two.to_link())


def looked(shared: SharedComponents, one: Recipe, two: Recipe, request: Any, progress: Any = None) -> str:
    """Both pictures made, and what the page shows of them."""
    with shared.stop_switches.running(request) as stop:
        recorded_images = [
            shared.session.record(recipe, stop, progress_callback(progress, recipe.steps))
            for recipe in (one, two)
        ]
    return compared(shared.session, *recorded_images)


def side(session: ExplorerSession, recipe: Recipe, choice: Any, sets: Mapping[str, Recipe | None]) -> Recipe:
    """The recipe of a side: with a set of edits, or of another system at its own steps and guidance."""
    if choice == PLAIN:
        return recipe
    if choice not in (PAINTED, KEPT, CONTROL):
        own = session.defaults(str(choice))
        return replace(recipe, system=own.system, steps=own.steps, guidance=own.guidance,
                       height=own.height, width=own.width)  # fmt: skip
    found = sets[PAINTED if choice == CONTROL else choice]
    if found is None or not len(found.active):
        where = "Keep for Compare on the Paint page" if choice == KEPT else "Paint"
        raise UnboxError(f"there are no '{choice}': add an edit with {where} first, or choose another side")
    edited = replace(recipe, edits=found.edits, off=found.off, guard=found.guard)
    return session.random_control(edited) if choice == CONTROL else edited


def compared(session: ExplorerSession, one: RecordedImage, two: RecordedImage) -> str:
    """Both pictures, their difference, and the features that fire more in either, as HTML."""
    names = _names(one.recipe, two.recipe)
    body = "".join(fragments.picture(s.image, name) for s, name in zip((one, two), names, strict=True))
    if one.image.size == two.image.size:
        change = image_uris.changed(one.image, two.image)[0]
        shown = image_uris.difference(one.image, two.image).convert("RGB")
        body += fragments.picture(shown, f"difference, mean {change:.1f} of 255")
    sections = []
    for sae in one.values:
        if sae in two.values:
            more, less = differing(session, one, two, sae)
            sides = ((f"{sae}: more on the left", less), (f"{sae}: more on the right", more))
            pair = "".join(f"<div>{fragments.chips(t, feature_summaries.feature_chips(session, f)) or _none(t)}</div>"  # noqa: E501

                           for t, f in sides)  # fmt: skip
            sections.append(f'<div class="ub-two">{pair}</div>')
    return f'<div class="ub-strip ub-three">{body}</div>' + "".join(sections)


def differing(
    session: ExplorerSession, one: RecordedImage, two: RecordedImage, sae: str
) -> tuple[list[tuple[str, float]], ...]:
    """The features of an SAE that fire more in the second picture, and those that fire more in the first:
    (name, difference of the mean activations), the most telling first."""
    change = totals(two, sae, session.saes[sae].latents) - totals(one, sae, session.saes[sae].latents)
    weight = session.rarity(sae)
    order = np.argsort(-(change if weight is None else change * weight), kind="stable")
    more = [(f"{sae}/{i}", float(change[i])) for i in order[:SHOWN] if change[i] > 0]
    less = [(f"{sae}/{i}", float(-change[i])) for i in order[::-1][:SHOWN] if change[i] < 0]
    return more, less


def totals(recorded: RecordedImage, sae: str, latents: int) -> np.ndarray:
    """(latents,) activation summed over places, as a mean over places, steps and branches."""
    values, indices = recorded.values[sae], recorded.indices[sae]
    summed = np.bincount(indices.ravel(), values.ravel().astype(np.float64), latents)
    return summed / max(1, values[..., 0].size)


def _none(title: str) -> str:
    return f'<section class="ub-group"><h4>{title}</h4><p class="ub-none">none</p></section>'


def _names(*recipes: Recipe) -> list[str]:
    return [
        ", ".join([recipe.system, *map(describe, recipe.active)] if len(recipe.active) else [recipe.system])
        for recipe in recipes
    ]
