"""Map: the features of an SAE on a plane, those with directions alike together."""

from dataclasses import dataclass

import gradio as gr
from gradio.blocks import Block

from unbox.errors import FieldError
from unbox.explorer import limits
from unbox.explorer.events import MAP, Updates, event_value, html_component, listen
from unbox.explorer.feature_map import COLOURS, map_html
from unbox.explorer.html import render
from unbox.explorer.pages import feature_page
from unbox.explorer.pages.feature_page import FeaturePage
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import SharedComponents, link
from unbox.validation import checked, unknown

TITLE = "Map"


@dataclass(frozen=True)
class MapPage:
    """The page's components."""

    sae: gr.Dropdown
    colour: gr.Radio
    make: gr.Button
    body: gr.HTML


def draw(session: ExplorerSession) -> MapPage:
    """The page's components; call inside its tab."""
    names = list(session.saes)
    with gr.Row(elem_classes="ub-toolbar"):
        sae = gr.Dropdown(names, value=names[0] if names else None, label="SAE", min_width=160,
                          elem_id="map-sae")  # fmt: skip
        colour = gr.Radio(list(COLOURS), value=COLOURS[0], label="Colour", min_width=260)
        make = gr.Button("Draw the map", variant="primary", elem_id="map-make", scale=0, min_width=130)
    note = render("note.html", note="Features whose decoder directions are alike lie together.")
    return MapPage(sae, colour, make, html_component(note, MAP, elem_id="map-body"))


def outputs(shared: SharedComponents, page: MapPage) -> list[Block]:
    """The components of `open_map`."""
    return [shared.tabs, page.sae, page.colour, page.body]


def open_map(shared: SharedComponents, page: MapPage, sae: str, colour: str) -> Updates:
    """The page with a link's map."""
    colour = colour or COLOURS[0]
    body = _body(shared.session, sae, colour)
    return {shared.tabs: gr.Tabs(selected="map"), page.sae: sae, page.colour: colour, page.body: body}


def wire(shared: SharedComponents, page: MapPage, feature: FeaturePage) -> None:
    """The page's events."""

    def show(sae: str, colour: str) -> Updates:
        body = _body(shared.session, sae, colour)
        return {page.body: body, shared.link: link("map", sae=sae, colour=colour)}

    def go(event: gr.EventData) -> Updates:
        name = event_value(event, "feature", str)
        return feature_page.open_feature(shared, feature, name) if name else gr.skip()

    for event in (page.make.click, page.sae.input, page.colour.input):
        shared.show_link(listen(event, show, [page.sae, page.colour], [page.body, shared.link]))
    shown = feature_page.outputs(shared, feature)
    shared.show_link(listen(page.body.click, go, None, shown, show_progress="hidden"))


def _body(session: ExplorerSession, sae: str, colour: str) -> str:
    sae, colour = checked(limits.Line, "sae", sae), checked(limits.Line, "colour", colour)
    chosen = next((each for each in COLOURS if each == colour), None)
    if chosen is None:
        raise FieldError("map", "colour", colour, unknown(colour, list(COLOURS)))
    return map_html(session, sae, chosen)
