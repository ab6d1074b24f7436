"""Compare: one prompt and seed under two systems, or with two sets of edits, and the features that differ."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import gradio as gr
import numpy as np

from unbox.errors import UnboxError
from unbox.explorer import generation_controls
from unbox.explorer.canvas_state import CanvasState
from unbox.explorer.events import FieldValue, Updates, event_value, html_component, listen
from unbox.explorer.feature_summaries import feature_chips, scale_of
from unbox.explorer.generation_controls import GenerationControls
from unbox.explorer.html import render
from unbox.explorer.image_difference import difference_image, mean_change
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.limits import REPEATS, Repeats
from unbox.explorer.pages.paint_page import PaintPage
from unbox.explorer.recorded_image import RecordedImage
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import SharedComponents, link
from unbox.statistics import bootstrap
from unbox.validation import checked

TITLE = "Compare"
#: Sides that are no other system.
PLAIN, PAINTED, SAVED, CONTROL = (
    "no edits", "edits of Paint", "edits kept in Paint", "random features in place of Paint's",
)  # fmt: skip
#: Sides that are those of a link that was opened.
LINK_LEFT, LINK_RIGHT = "the link's left", "the link's right"
#: Orders of the features that differ.
TELLING, LARGEST = "most telling", "largest change"
#: Features shown of each side and block.
SHOWN = 6

#: SAE -> changes of features' mean activations, right less left, (seeds, latents).
Changes = Mapping[str, np.ndarray]


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
    linked: gr.State
    """The recipes of the link that was opened, (left, right), or None."""
    rank: gr.Radio
    sides: gr.State
    """The pictures that are shown, (left, right), or None."""
    seeds: gr.Dropdown
    """How many seeds are compared: the picture's own and those after it."""
    differences: gr.State
    """What differs under several seeds: SAE -> changes, (seeds, latents)."""

    @property
    def linked_outputs(self) -> list[gr.components.Component]:
        """The components of `open_link`."""
        return [self.result, self.sides, self.differences, self.linked, self.left, self.right]

    def open_link(self, session: ExplorerSession, one: Recipe, two: Recipe) -> Updates:
        """The page with the pictures of a link, which its controls name."""
        sides = session.record(one), session.record(two)
        return {
            self.result: comparison_html(session, *sides),
            self.sides: sides,
            self.differences: None,
            self.linked: (one, two),
            self.left: LINK_LEFT,
            self.right: LINK_RIGHT,
        }


def draw(session: ExplorerSession, first: Recipe) -> ComparePage:
    """The page's components; call inside its tab."""
    controls = generation_controls.draw(session, first, "compare")
    others = [name for name in session.systems if name != session.default]
    choices = [PLAIN, PAINTED, SAVED, CONTROL, *others, LINK_LEFT, LINK_RIGHT]
    against = others[-1] if others else PAINTED
    with gr.Row(elem_classes="ub-toolbar"):
        compare = gr.Button("Compare", variant="primary", elem_id="compare-make", scale=0, min_width=120)
        stop = gr.Button("Stop", scale=0, min_width=70)
        left, right = (
            gr.Dropdown(choices, value=value, label=label, elem_id=f"compare-{label.lower()}", min_width=200)
            for value, label in ((PLAIN, "Left"), (against, "Right"))
        )
        rank = gr.Radio([TELLING, LARGEST], value=TELLING, min_width=220, elem_id="compare-rank",
                        label="Order of features (telling: rare ones count for more)")  # fmt: skip
        seeds = gr.Dropdown(list(REPEATS), value="1", label="Seeds", min_width=80, scale=0,
                            elem_id="compare-seeds")  # fmt: skip
    result = html_component(render("comparison.html", pictures=[]), elem_id="compare-result")
    states = [gr.State(None, time_to_live=3600) for _ in range(4)]
    return ComparePage(controls, left, right, compare, stop, result, states[0], states[1], rank, states[2],
                       seeds, states[3])  # fmt: skip


def wire(shared: SharedComponents, page: ComparePage, paint: PaintPage) -> None:
    """The page's events."""
    session = shared.session
    inputs = [page.left, page.right, page.rank, page.seeds, page.saved, page.linked, paint.state,
              *page.controls.components]  # fmt: skip
    outputs = [page.result, page.sides, page.differences, shared.link]

    def run(
        left: str, right: str, rank: str, count: str, saved: Recipe | None,
        linked: tuple[Recipe, Recipe] | None, painted: CanvasState, *values: FieldValue,
    ) -> Updates:  # fmt: skip
        count = checked(Repeats, "seeds", count)
        of_link = dict(zip((LINK_LEFT, LINK_RIGHT), linked or (None, None), strict=True))
        recipe, sets = page.controls.recipe(values), {PAINTED: painted.recipe, SAVED: saved, **of_link}
        one, two = (side(session, recipe, choice, sets) for choice in (left, right))
        sides = session.record(one), session.record(two)
        found = changes_of(session, one, two, int(count))
        query = link("compare", r=one.to_link(), other=two.to_link())
        shown = comparison_html(session, *sides, rank, found)
        return {page.result: shown, page.sides: sides, page.differences: found, shared.link: query}

    def reorder(
        sides: tuple[RecordedImage, RecordedImage] | None, rank: str, found: Changes | None
    ) -> str | Updates:
        return comparison_html(session, *sides, rank, found) if sides else gr.skip()

    def choose(
        event: gr.EventData, sides: tuple[RecordedImage, RecordedImage] | None, rank: str,
        found: Changes | None,
    ) -> str | Updates:  # fmt: skip
        name = event_value(event, "feature", str)
        if not sides or name is None:
            return gr.skip()
        session.feature(name)
        return comparison_html(session, *sides, rank, found, name)

    events = (page.compare.click, page.controls.prompt.submit)
    runs = [listen(event, run, inputs, outputs, device=True, progress_on=page.result) for event in events]
    shared.wire_runs(runs, page.stop)
    shown = [page.sides, page.rank, page.differences]
    listen(page.rank.input, reorder, shown, [page.result], show_progress="hidden")
    listen(page.result.click, choose, shown, [page.result], show_progress="hidden")

    def keep(state: CanvasState) -> Recipe:
        if not len(state.recipe.active):
            raise UnboxError("there is no edit that is on: add one first")
        gr.Info("Kept: Compare can set these edits beside others.", duration=4)
        return state.recipe

    listen(paint.keep.click, keep, [paint.state], [page.saved], show_progress="hidden")


def side(session: ExplorerSession, recipe: Recipe, choice: str, sets: Mapping[str, Recipe | None]) -> Recipe:
    """The recipe of a side: with a set of edits, or of another system at its own steps and guidance; with
    the prompt, seed and negative prompt of `recipe`. Raises UnboxError for a choice that is not there."""
    if choice == PLAIN:
        return recipe
    if choice not in (*sets, CONTROL):
        return _same_picture(session.defaults(str(choice)), recipe)
    found = sets[PAINTED if choice == CONTROL else choice]
    if choice in (LINK_LEFT, LINK_RIGHT):
        if found is None:
            raise UnboxError(f"'{choice}' is of no link: open one first, or choose another side")
        return _same_picture(found, recipe)
    if found is None or not len(found.active):
        where = "Keep for Compare on the Paint page" if choice == SAVED else "Paint"
        raise UnboxError(f"there are no '{choice}': add an edit with {where} first, or choose another side")
    edited = replace(recipe, edits=found.edits, off=found.off, guard=found.guard)
    return session.random_control(edited) if choice == CONTROL else edited


def _same_picture(settings: Recipe, of: Recipe) -> Recipe:
    return replace(settings, prompt=of.prompt, seed=of.seed, negative_prompt=of.negative_prompt)


def comparison_html(
    session: ExplorerSession, left: RecordedImage, right: RecordedImage, rank: str = TELLING,
    found: Changes | None = None, chosen: str = "",
) -> str:  # fmt: skip
    """Both pictures, their difference, what was edited, the features that fire more in either, as HTML.
    `found`: changes under several seeds; `chosen`: a feature whose heat lies over both pictures."""
    made = [(each.image, each.recipe) for each in (left, right)]
    pictures = [(image, ", ".join([of.system, *(edit.summary for edit in of.active)])) for image, of in made]
    if left.image.size == right.image.size:
        change = mean_change(left.image, right.image)[0]
        difference = difference_image(left.image, right.image)
        pictures.append((difference, f"difference, mean {change:.1f} of 255"))
    found = changes_between(session, left, right) if found is None else found
    features = [
        (sae, *(feature_chips(session, rows, chosen, _seeds(change, rows))
                for rows, change in ((less, -found[sae]), (more, found[sae]))))
        for sae, (more, less) in ranked(session, found, rank == TELLING).items()
    ]  # fmt: skip
    edited = [
        (side, feature_chips(session, _edited(session, of, recorded), chosen))
        for side, recorded in (("left", left), ("right", right)) for of in (recorded.recipe,)
    ]  # fmt: skip
    return render("comparison.html", pictures=pictures, features=features, edited=edited, chosen=chosen,
                  heats=_heats(left, right, chosen), scale=scale_of(session, chosen) if chosen else 1.0,
                  seeds=max((len(each) for each in found.values()), default=1))  # fmt: skip


def _heats(left: RecordedImage, right: RecordedImage, chosen: str) -> list[tuple[RecordedImage, np.ndarray]]:
    """Both pictures with a feature's heat; none where it was not recorded in both."""
    sae, _, index = chosen.rpartition("/")
    if not chosen or sae not in left.values or sae not in right.values:
        return []
    return [(each, each.heat(sae, int(index))) for each in (left, right)]


def _seeds(found: np.ndarray, rows: list[tuple[str, float]]) -> dict[str, str]:
    """Feature -> its interval over seeds, and in how many of them it is as said; empty for one seed."""
    if len(found) < 2:
        return {}
    notes = {}
    for name, _ in rows:
        changes = found[:, int(name.rpartition("/")[2])]
        mean, signs = bootstrap(changes), int((np.sign(changes) == np.sign(changes.mean())).sum())
        notes[name] = f"[{mean.low:+.2g}, {mean.high:+.2g}], so in {signs} of {len(found)} seeds"
    return notes


def _edited(session: ExplorerSession, recipe: Recipe, recorded: RecordedImage) -> list[tuple[str, float]]:
    """The features that a picture's edits name, with their mean activation before the edit of their block."""
    names = [f"{edit.source or edit.block}/{i}" for edit in recipe.active for i in edit.feature]
    found = []
    for name in dict.fromkeys(names):
        sae, _, index = name.rpartition("/")
        if sae in recorded.values:
            means = recorded.mean_activations(sae, session.saes[sae].latents)
            found.append((name, float(means[int(index)])))
    return found


def changes_between(session: ExplorerSession, left: RecordedImage, right: RecordedImage) -> Changes:
    """SAE of both pictures -> (1, latents) change of each feature's mean activation."""
    found = {}
    for sae in (name for name in left.values if name in right.values):
        latents = session.saes[sae].latents
        means = (each.mean_activations(sae, latents) for each in (right, left))
        found[sae] = np.subtract(*means)[None]
    return found


def changes_of(session: ExplorerSession, one: Recipe, two: Recipe, seeds: int) -> Changes:
    """`changes_between` of two recipes under their seed and those after it, (seeds, latents)."""
    found: dict[str, list[np.ndarray]] = {}
    for seed in range(one.seed, one.seed + seeds):
        sides = (session.record(replace(each, seed=seed)) for each in (one, two))
        for sae, change in changes_between(session, *sides).items():
            found.setdefault(sae, []).append(change)
    return {sae: np.concatenate(each) for sae, each in found.items()}


def differing(
    session: ExplorerSession, left: RecordedImage, right: RecordedImage, telling: bool = True
) -> dict[str, tuple[list[tuple[str, float]], ...]]:
    """`ranked` of two pictures."""
    return ranked(session, changes_between(session, left, right), telling)


def ranked(
    session: ExplorerSession, changes: Changes, telling: bool = True
) -> dict[str, tuple[list[tuple[str, float]], ...]]:
    """SAE -> the features that fire more in the right picture, and those that fire more in the left: (name,
    difference of the mean activations, in the mean over seeds).

    The most telling first: changes in the feature's mean activations, times log(1 / density); or the largest
    first. Changes under `ExplorerSession.floor` are none.
    """
    found: dict[str, tuple[list[tuple[str, float]], ...]] = {}
    for sae, seeds in changes.items():
        change, weight = seeds.mean(0), session.rarity(sae) if telling else None
        change = np.where(np.abs(change) < session.floor(sae), 0, change)
        order = np.argsort(-(change if weight is None else change * weight), kind="stable")
        more = [(f"{sae}/{i}", float(change[i])) for i in order if change[i] > 0][:SHOWN]
        less = [(f"{sae}/{i}", float(-change[i])) for i in order[::-1] if change[i] < 0][:SHOWN]
        found[sae] = more, less
    return found
