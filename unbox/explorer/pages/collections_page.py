"""Collections: lists of features that are kept in the browser, as JSON, and in links."""

from dataclasses import dataclass

import gradio as gr
from gradio.blocks import Block

from unbox.errors import UnboxError
from unbox.explorer.collection import FeatureCollection, collection_html
from unbox.explorer.events import COLLECTION, COLLECTIONS, Updates, event_value, html_component, listen
from unbox.explorer.html import render
from unbox.explorer.pages import feature_page
from unbox.explorer.pages.feature_page import FeaturePage
from unbox.explorer.shared_components import SharedComponents

TITLE = "Collections"


@dataclass(frozen=True)
class CollectionsPage:
    """The page's components."""

    kept: gr.HTML
    features: gr.HTML


def draw() -> CollectionsPage:
    """The page's components; call inside its tab."""
    kept = html_component(render("collections.html"), COLLECTIONS, elem_id="collections-kept")
    return CollectionsPage(kept, html_component("", COLLECTION, elem_id="collections-features"))


def outputs(shared: SharedComponents, page: CollectionsPage) -> list[Block]:
    """The components of `open_collection`."""
    return [shared.tabs, page.features]


def open_collection(shared: SharedComponents, page: CollectionsPage, text: str) -> Updates:
    """The page with the collection of a link."""
    shown = collection_html(shared.session, FeatureCollection.from_link(text), shared=True)
    return {shared.tabs: gr.Tabs(selected="collections"), page.features: shown}


def wire(shared: SharedComponents, page: CollectionsPage, feature: FeaturePage) -> None:
    """What is chosen is drawn, and becomes the page's link; a feature opens its page."""

    def show(event: gr.EventData) -> Updates:
        opened = event_value(event, "opened", str)
        text = event_value(event, "text", str) if opened is None else opened
        if text is None:
            raise UnboxError("this file holds no collection")
        found = FeatureCollection.from_text(text)
        shown = collection_html(shared.session, found)
        if opened is not None:  # the browser keeps it, and asks for it again
            shown = render("opened_collection.html", data=found.to_json())
        return {page.features: shown}

    def go(event: gr.EventData) -> Updates:
        name = event_value(event, "feature", str)
        return feature_page.open_feature(shared, feature, name) if name else gr.skip()

    listen(page.kept.input, show, None, [page.features], show_progress="hidden", in_order=True)
    shown = feature_page.outputs(shared, feature)
    shared.show_link(listen(page.features.click, go, None, shown, show_progress="hidden"))
