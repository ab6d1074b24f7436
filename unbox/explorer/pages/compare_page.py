"""Compare: one prompt and seed under two systems, or with two sets of edits, and the features that differ."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import gradio as gr
import numpy as np

from unbox.errors import UnboxError
from unbox.explorer import generation_controls
from unbox.explorer.canvas_state import CanvasState
from unbox.explorer.events import FieldValue, Updates, html_component, listen
from unbox.explorer.feature_summaries import feature_chips
from unbox.explorer.generation_controls import GenerationControls
from unbox.explorer.html import render
from unbox.explorer.image_difference import difference_image, mean_change
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.pages.paint_page import PaintPage
from unbox.explorer.recorded_image import RecordedImage
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import SharedComponents, link

TITLE = "Compare"
#: Sides that are no other system.
PLAIN, PAINTED, SAVED, CONTROL = (
    "no edits", "edits of Paint", "edits kept in Paint", "random features in place of Paint's",
)  # fmt: skip
#: Features shown of each side and block.
SHOWN = 6


@dataclass(frozen=True)
class ComparePage:
    """The page's components."""

    controls: GenerationControls
    left: gr.Dropdown
    right: gr.Dropdown
    compare: gr.Button
    stop: gr.Button
    result: gr.HTML
    saved: gr.State
    """The recipe that Paint has set aside, or None."""


def draw(session: ExplorerSession, first: Recipe) -> ComparePage:
    """The page's components; call inside its tab."""
    controls = generation_controls.draw(session, first, "compare")
    others = [name for name in session.systems if name != session.default]
    choices = [PLAIN, PAINTED, SAVED, CONTROL, *others]
    against = others[-1] if others else PAINTED
    with gr.Row(elem_classes="ub-toolbar"):
        compare = gr.Button("Compare", variant="primary", elem_id="compare-make", scale=0, min_width=120)
        stop = gr.Button("Stop", scale=0, min_width=70)
        left, right = (
            gr.Dropdown(choices, value=value, label=label, elem_id=f"compare-{label.lower()}", min_width=200)
            for value, label in ((PLAIN, "Left"), (against, "Right"))
        )
    result = html_component(render("comparison.html", pictures=[]), elem_id="compare-result")
    return ComparePage(controls, left, right, compare, stop, result, gr.State(None, time_to_live=3600))


def wire(shared: SharedComponents, page: ComparePage, paint: PaintPage) -> None:
    """The page's events."""
    inputs = [page.left, page.right, page.saved, paint.state, *page.controls.components]
    outputs = [page.result, shared.link]

    def run(
        left: str, right: str, saved: Recipe | None, painted: CanvasState, *values: FieldValue
    ) -> Updates:
        recipe, sets = page.controls.recipe(values), {PAINTED: painted.recipe, SAVED: saved}
        one, two = (side(shared.session, recipe, choice, sets) for choice in (left, right))
        query = link("compare", r=one.to_link(), other=two.to_link())
        return {page.result: compare(shared.session, one, two), shared.link: query}

    events = (page.compare.click, page.controls.prompt.submit)
    shared.wire_runs([listen(event, run, inputs, outputs, device=True) for event in events], page.stop)

    def keep(state: CanvasState) -> Recipe:
        if not len(state.recipe.active):
            raise UnboxError("there is no edit that is on: add one first")
        gr.Info("Kept: Compare can set these edits beside others.", duration=4)
        return state.recipe

    listen(paint.keep.click, keep, [paint.state], [page.saved], show_progress="hidden")


def compare(session: ExplorerSession, one: Recipe, two: Recipe) -> str:
    """Both pictures made, and what the page shows of them."""
    return comparison_html(session, session.record(one), session.record(two))


def side(session: ExplorerSession, recipe: Recipe, choice: str, sets: Mapping[str, Recipe | None]) -> Recipe:
    """The recipe of a side: with a set of edits, or of another system at its own steps and guidance."""
    if choice == PLAIN:
        return recipe
    if choice not in (PAINTED, SAVED, CONTROL):
        defaults, negative = session.defaults(str(choice)), recipe.negative_prompt
        return replace(defaults, prompt=recipe.prompt, seed=recipe.seed, negative_prompt=negative)
    found = sets[PAINTED if choice == CONTROL else choice]
    if found is None or not len(found.active):
        where = "Keep for Compare on the Paint page" if choice == SAVED else "Paint"
        raise UnboxError(f"there are no '{choice}': add an edit with {where} first, or choose another side")
    edited = replace(recipe, edits=found.edits, off=found.off, guard=found.guard)
    return session.random_control(edited) if choice == CONTROL else edited


def comparison_html(session: ExplorerSession, left: RecordedImage, right: RecordedImage) -> str:
    """Both pictures, their difference, and the features that fire more in either, as HTML."""
    made = [(each.image, each.recipe) for each in (left, right)]
    pictures = [(image, ", ".join([of.system, *(edit.summary for edit in of.active)])) for image, of in made]
    if left.image.size == right.image.size:
        change = mean_change(left.image, right.image)[0]
        difference = difference_image(left.image, right.image)
        pictures.append((difference, f"difference, mean {change:.1f} of 255"))
    features = [
        (sae, feature_chips(session, less), feature_chips(session, more))
        for sae, (more, less) in differing(session, left, right).items()
    ]
    return render("comparison.html", pictures=pictures, features=features)


def differing(
    session: ExplorerSession, left: RecordedImage, right: RecordedImage
) -> dict[str, tuple[list[tuple[str, float]], ...]]:
    """SAE of both pictures -> the features that fire more in the right one, and those that fire more in the
    left: (name, difference of the mean activations), the most telling first."""
    found: dict[str, tuple[list[tuple[str, float]], ...]] = {}
    for sae in (name for name in left.values if name in right.values):
        latents, weight = session.saes[sae].latents, session.rarity(sae)
        change = right.mean_activations(sae, latents) - left.mean_activations(sae, latents)
        order = np.argsort(-(change if weight is None else change * weight), kind="stable")
        more = [(f"{sae}/{i}", float(change[i])) for i in order[:SHOWN] if change[i] > 0]
        less = [(f"{sae}/{i}", float(-change[i])) for i in order[::-1][:SHOWN] if change[i] < 0]
        found[sae] = more, less
    return found
