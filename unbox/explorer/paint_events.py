"""The events of the Paint page: strokes, layers, the palette, runs, and what other pages open in it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import gradio as gr
from gradio.events import Dependency

from unbox.edit import Edit
from unbox.errors import FieldError, UnboxError
from unbox.explorer import live_events
from unbox.explorer.canvas import stale_html
from unbox.explorer.canvas_state import CanvasState, MadeImage, mask_from_canvas
from unbox.explorer.edit_controls import EVERYWHERE, edit_of
from unbox.explorer.events import FieldValue, Updates, event_value, listen
from unbox.explorer.film_strip import Frame, film_html, with_frame
from unbox.explorer.limits import Line, Repeats
from unbox.explorer.moved_region import moved_edits
from unbox.explorer.packed_json import parse
from unbox.explorer.pages.explore_page import ExplorePage
from unbox.explorer.pages.feature_page import FeaturePage
from unbox.explorer.pages.paint_page import PaintPage, copied, generate
from unbox.explorer.palette import PaletteQuery, swatches_html
from unbox.explorer.photo_start import decoded_photo
from unbox.explorer.recorded_image import RecordedImage
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import SharedComponents, link
from unbox.mask import Mask
from unbox.validation import checked

#: What a button of a layer does with the layer at an index.
ACTS: dict[str, Callable[[CanvasState, int], CanvasState]] = {
    "choose": CanvasState.choose,
    "toggle": CanvasState.toggle,
    "remove": CanvasState.remove,
    "no photo": lambda state, _: state.changed(replace(state.recipe, photo=""), state.chosen),
}

#: Tells the canvas that the brush is another now.
BRUSH_TAKEN = "() => window.unboxBrushTaken?.()"


def wire(shared: SharedComponents, page: PaintPage, explore: ExplorePage, feature: FeaturePage) -> None:
    """The page's events, and those of other pages that open it."""
    session = shared.session
    wiring = LayerEvents(session, page)
    changes = [*wiring.wire(), *_wire_opening(shared, page, explore, feature), *_wire_runs(shared, page)]
    changes.append(_wire_film(shared, page))
    _wire_palette(session, page)

    live_events.wire(session, page)

    def mark(
        live: bool, state: CanvasState, made: MadeImage | None, guard: bool, *values: FieldValue
    ) -> Updates:
        if state.held is not None:  # its frame is asked for already
            return gr.skip()
        try:
            now = page.wanted(state, guard, values)
        except UnboxError:  # what the controls say cannot be made: Generate will say why
            return {page.stale: stale_html(made, None)}
        change = live_events.request()
        stale = stale_html(made, now, change if live or session.quick(now) else "")
        return {page.stale: stale} | ({page.frame_request: change} if live and stale else {})

    events: list[Callable[..., Dependency]] = [each.then for each in changes]
    events += [each.input for each in page.settings]
    shown = [page.live, page.state, page.made, *page.settings]
    for event in events:
        listen(event, mark, shown, [page.stale, page.frame_request], show_progress="hidden")
    listen(page.copy_format.input, partial(copied, session), page.inputs, [page.copied],
           show_progress="hidden")  # fmt: skip


@dataclass(frozen=True)
class LayerEvents:
    """What strokes, the controls of a layer and the list of layers do."""

    session: ExplorerSession
    page: PaintPage

    def wire(self) -> list[Dependency]:
        """Listen to all of them."""
        page = self.page
        fields, outputs = [*page.inputs, *page.edit.components], [*page.outputs, *page.edit.components]
        edit = page.edit
        events: list[tuple[Callable[..., Dependency], Callable[..., Updates], list, list]] = [
            (page.canvas.input, self.stroke, fields, outputs),
            (page.add.click, self.add, fields, outputs),
            (page.undo.click, partial(self.step, CanvasState.undo), page.inputs, outputs),
            (page.redo.click, partial(self.step, CanvasState.redo), page.inputs, outputs),
            (page.layers.click, self.press, page.inputs, outputs),
            (page.layers.input, self.slide, page.inputs, [*outputs, page.frame_request]),
        ]
        told: list[Callable[..., Dependency]]
        told = [each.input for each in (edit.op, edit.unit, edit.branch, edit.where)]
        told += [
            event for each in (edit.feature, edit.strength, edit.steps) for event in (each.submit, each.blur)
        ]
        events += [(event, self.change, fields, outputs) for event in told]
        taken = listen(page.swatches.click, self.take, page.inputs, [*page.outputs, *edit.brush],
                       show_progress="hidden", in_order=True)  # fmt: skip
        return [
            taken,
            *(
                listen(event, fn, inputs, outputs, show_progress="hidden", in_order=True)
                for event, fn, inputs, outputs in events
            ),
        ]

    def stroke(
        self, event: gr.EventData, state: CanvasState, made: MadeImage | None, copy_format: str,
        *values: FieldValue,
    ) -> Updates:  # fmt: skip
        """A stroke changes the chosen layer; without one it begins a layer of the brush's feature. The canvas
        has it already. A region that was dragged moves what fires in it."""
        mask = mask_from_canvas(*(event._data.get(name) for name in ("mask", "width", "height")))
        dx, dy = (event_value(event, name, float) for name in ("dx", "dy"))
        if dx is not None and dy is not None:
            return self._show(self._moved(state, mask, dx, dy), made, copy_format)
        new = self._new(mask, values) if state.chosen is None and not mask.empty else None
        shown = self._show(state.stroke(mask, new), made, copy_format)
        return {each: value for each, value in shown.items() if each is not self.page.canvas}

    def add(
        self, state: CanvasState, made: MadeImage | None, copy_format: str, *values: FieldValue
    ) -> Updates:
        """A new layer that acts everywhere, or where the feature fires."""
        return self._show(state.add(self._new(None, values)), made, copy_format)

    def change(
        self, state: CanvasState, made: MadeImage | None, copy_format: str, *values: FieldValue
    ) -> Updates:
        """Another word in the controls changes the chosen layer; without one it is for the next."""
        if state.chosen is None:
            return gr.skip()
        layer = state.recipe.edits[state.chosen]
        if list(values) == list(self.page.edit.updates(layer).values()):
            return gr.skip()
        if len(layer.feature) != 1 or isinstance(layer.value, tuple):
            raise UnboxError(
                "this layer is of several features or strengths: its row has what can be changed"
            )
        edit = edit_of(self.session, state.mask, values)
        return self._show(state.replace_chosen(edit), made, copy_format)

    def step(
        self, act: Callable[[CanvasState], CanvasState], state: CanvasState, made: MadeImage | None,
        copy_format: str,
    ) -> Updates:  # fmt: skip
        """Undo or redo."""
        return self._show(act(state), made, copy_format)

    def press(
        self, event: gr.EventData, state: CanvasState, made: MadeImage | None, copy_format: str
    ) -> Updates:
        """A button of a layer."""
        name, index = event_value(event, "act", str), event_value(event, "place", int)
        if name not in ACTS or index is None:
            raise FieldError("layers", "act", name, f"should be one of {', '.join(ACTS)}, at a place")
        return self._show(ACTS[name](state, index), made, copy_format)

    def slide(
        self, event: gr.EventData, state: CanvasState, made: MadeImage | None, copy_format: str
    ) -> Updates:
        """The slider of a layer's strength, or its grip, which takes it to another place."""
        index, to = event_value(event, "place", int), event_value(event, "to", int)
        value = event_value(event, "value", float)
        if index is not None and to is not None:
            return self._show(state.move(index, to), made, copy_format)
        if index is None or value is None:
            raise FieldError("layers", "value", value, "should be a strength, of the layer at a place")
        if event_value(event, "held", int):  # the row is under the pointer: it stays as it is
            held = state.with_strength(index, float(value), held=True)
            return {self.page.state: held, self.page.frame_request: live_events.request()}
        return self._show(state.with_strength(index, float(value)), made, copy_format)

    def take(
        self, event: gr.EventData, state: CanvasState, made: MadeImage | None, copy_format: str
    ) -> Updates:
        """A swatch becomes the brush: the next stroke begins a layer."""
        name = event_value(event, "feature", str)
        self.session.feature(name or "")
        shown = self.page.show(self.session, state.choose(None), made, copy_format)
        return shown | self.page.edit.taken(self.session, name or "")

    def _new(self, mask: Mask | None, values: tuple[FieldValue, ...]) -> Edit:
        """A layer as the controls say it; `mask`: where it is painted, None for what they say."""
        fields = dict(zip(vars(self.page.edit), values, strict=True))
        if mask is not None or fields["where"] == "painted mask":
            fields["where"] = EVERYWHERE
        return edit_of(self.session, mask, list(fields.values()))

    def _moved(self, state: CanvasState, region: Mask, dx: float, dy: float) -> CanvasState:
        """A region of the picture that is dragged: layers that move what fires in it."""
        recorded = self.session.at_hand(state.recipe.plain)
        if recorded is None:
            raise UnboxError(
                "what fires in this picture is not known here: Generate it, or open it in Explore"
            )
        edits = state.recipe.edits + moved_edits(self.session, recorded, region, dx, dy)
        return state.changed(replace(state.recipe, edits=edits))

    def _show(self, state: CanvasState, made: MadeImage | None, copy_format: str) -> Updates:
        shown = self.page.show(self.session, state, made, copy_format)
        chosen = state.chosen
        return shown if chosen is None else shown | self.page.edit.updates(state.recipe.edits[chosen])


def _wire_palette(session: ExplorerSession, page: PaintPage) -> None:
    """The palette's field and lists."""

    def ask(event: gr.EventData, state: CanvasState) -> Updates:
        query = PaletteQuery.of(*(event_value(event, name, str) for name in ("list", "words", "liked")))
        return {page.query: query, page.swatches: swatches_html(session, state.recipe, query)}

    listen(page.palette.input, ask, [page.state], [page.query, page.swatches], show_progress="hidden")


def _wire_film(shared: SharedComponents, page: PaintPage) -> Dependency:
    """A picture of the film strip shows what it was made of, and itself where it is at hand."""
    session = shared.session

    def back(
        event: gr.EventData, state: CanvasState, made: MadeImage | None, copy_format: str,
        film: tuple[Frame, ...],
    ) -> Updates:  # fmt: skip
        index = event_value(event, "frame", int)
        if index is None or not 0 <= index < len(film):
            raise FieldError(
                "film", "frame", index, f"should be one of the {len(film)} pictures of the strip"
            )
        recipe = film[index].recipe
        shown = state.changed(recipe)
        controls = page.controls.updates(recipe) | {page.guard: recipe.guard}
        if not session.has_pictures([recipe.plain, recipe]):  # the picture shown is marked: Generate makes it
            return page.show(session, shown, made, copy_format) | controls
        made = generate(session, recipe)
        return page.show(session, shown, made, copy_format) | page.show_made(made) | controls

    outputs = [*page.outputs, page.made, page.result, *page.settings]
    return listen(page.film_strip.click, back, [*page.inputs, page.film], outputs,
                  show_progress="hidden", in_order=True)  # fmt: skip


def _wire_runs(shared: SharedComponents, page: PaintPage) -> list[Dependency]:
    """Generate, control, a PNG that is dropped, and stop. A run answers with what was made; the layers of
    when the run has ended are put beside it."""
    session = shared.session

    def run(
        state: CanvasState, made: MadeImage | None, count: str, guard: bool, *values: FieldValue,
        control: bool = False,
    ) -> Updates:  # fmt: skip
        wanted, draws = page.wanted(state, guard, values), range(0)
        if control:  # asked for once more, others are drawn
            count = checked(Repeats, "draws", count)
            again = made is not None and made.wanted == wanted and len(made.draws) > 0
            first = 1 + (made.draws[-1][0].draw or 0) if again and made is not None else 0
            draws = range(first, first + int(count))
        made = generate(session, wanted, draws)
        return page.show_made(made) | {shared.link: link("paint", r=made.recipe.to_link())}

    def after_run(
        state: CanvasState, made: MadeImage | None, copy_format: str, query: PaletteQuery,
        film: tuple[Frame, ...],
    ) -> Updates:  # fmt: skip
        state, film = state if made is None else state.with_settings(made.asked), with_frame(film, made)
        beside = {page.film: film, page.film_strip: film_html(film)}
        swatches = {page.swatches: swatches_html(session, state.recipe, query)}
        shown = page.show(session, state, made, copy_format)
        if state.held is not None:  # a slider under the pointer stays
            del shown[page.layers]
        return shown | beside | swatches

    def from_file(
        event: gr.EventData, state: CanvasState, made: MadeImage | None, copy_format: str
    ) -> Updates:
        if photo := event_value(event, "photo", str):
            image = decoded_photo(photo, state.recipe.width, state.recipe.height)
            started = state.changed(replace(state.recipe, photo=session.photos.add(image)), state.chosen)
            return page.show(session, started, made, copy_format)
        text = event_value(event, "recipe", str)
        if text is None:
            raise UnboxError(event_value(event, "problem", str) or "this file holds no recipe")
        return page.open_recipe(shared, session.completed(parse(text)), copy_format)

    dropped = listen(page.drop.input, from_file, page.inputs, [*page.opened, shared.tabs], in_order=True)
    events = ((page.generate.click, False), (page.controls.prompt.submit, False), (dropped.success, False),
              (page.random_control.click, True))  # fmt: skip
    runs = [
        listen(event, partial(run, control=control), [page.state, page.made, page.draws, *page.settings],
               [page.made, page.result, shared.link], device=True, progress_on=page.result,
               trigger_mode="always_last")
        for event, control in events
    ]  # fmt: skip
    shared.wire_runs(runs, page.stop)
    outputs = [*page.outputs, page.film, page.film_strip, page.swatches]
    inputs = [*page.inputs, page.query, page.film]
    return [
        listen(each.success, after_run, inputs, outputs, show_progress="hidden", in_order=True)
        for each in runs
    ]


def _wire_opening(
    shared: SharedComponents, page: PaintPage, explore: ExplorePage, feature: FeaturePage
) -> list[Dependency]:
    """Pictures and features that come from other pages."""
    opened = [*page.opened, shared.tabs]

    def from_explore(recorded: RecordedImage | None, chosen: str, copy_format: str) -> Updates:
        if recorded is None:
            raise UnboxError("make a picture first")
        return page.open_image(shared, recorded, chosen, copy_format)

    def from_card(event: gr.EventData, recorded: RecordedImage | None, copy_format: str) -> Updates:
        name = event_value(event, "paint", str)
        return from_explore(recorded, name, copy_format) if name else gr.skip()

    def from_feature(name: str, state: CanvasState, made: MadeImage | None, copy_format: str) -> Updates:
        shared.session.feature(name)
        shown = page.show(shared.session, state.choose(None), made, copy_format)
        brush = page.edit.taken(shared.session, checked(Line, "feature", name))
        return shown | brush | {shared.tabs: gr.Tabs(selected="paint")}

    picture = [explore.recorded, explore.chosen, page.copy_format]
    listen(feature.paint.click, from_feature, [feature.name, *page.inputs],
           [*page.outputs, shared.tabs, *page.edit.brush], show_progress="hidden", in_order=True)  # fmt: skip
    return [
        listen(explore.paint.click, from_explore, picture, opened, in_order=True),
        listen(explore.card.click, from_card, [explore.recorded, page.copy_format], opened,
               show_progress="hidden", in_order=True),
    ]  # fmt: skip
