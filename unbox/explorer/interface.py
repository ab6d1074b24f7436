"""The explorer: its pages in one Gradio app, and how it is served."""

import importlib.util
import ipaddress
import secrets
from collections.abc import Callable
from contextlib import ExitStack

import gradio as gr
import torch
from gradio.utils import cancel_tasks
from PIL import Image

from unbox.atlas import Filter
from unbox.errors import UnboxError
from unbox.explorer import api, events, links, paint_events
from unbox.explorer.feature_summaries import facts_of
from unbox.explorer.html import render
from unbox.explorer.limits import Host, Password, RootPath
from unbox.explorer.pages import (
    blocks_page,
    collections_page,
    compare_page,
    explore_page,
    feature_page,
    map_page,
    paint_page,
    plots_page,
    search_page,
    systems_page,
)
from unbox.explorer.queue_limits import REQUESTS, bound_runs
from unbox.explorer.served_pictures import PICTURES
from unbox.explorer.session import ExplorerSession
from unbox.explorer.shared_components import SMALL, InitialState, SharedComponents
from unbox.validation import Port, checked

#: Prompts to try in the Shapes world, and elsewhere.
SHAPES = (
    "a large striped red heart left of a large dotted yellow star on a teal background, bright light",
    "a large dotted yellow triangle at the top on a teal background, light from the left",
    "a small solid white cross on the right on a plum background, bright light",
    "a large solid blue square in the center on a gray background, bright light",
)
OTHERS = (
    "a dog on a beach, cartoon",
    "a photo of a red sports car in the mountains",
    "portrait of an old sailor, oil painting",
)
#: Steps of the tour: the page, what to do there.
TOUR = (
    ("Explore", "Choose a prompt. The features that fire appear beside the picture, by block; choose one to "
                "see where, or click the picture to see what fires there."),
    ("Feature", "What one feature means: its strongest images beside random ones, statistics, relatives."),
    ("Search", "Find features by words, by meaning or by figures."),
    ("Paint", "Paint a mask, add the feature there, generate; the saved PNG carries its recipe."),
    ("Compare", "Two systems or two sets of edits side by side, and the features that differ."),
)  # fmt: skip


def build(session: ExplorerSession) -> gr.Blocks:
    """The app of a session, not yet served."""
    shapes = session.default.startswith("shapes") or session.model(session.default).size <= 128
    examples = list(SHAPES if shapes else OTHERS)
    initial = InitialState.of(session, examples[0])
    with gr.Blocks(
        title="unbox", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as app:
        gr.HTML(
            header_html(session, task_word(session, initial)),
            js_on_load=events.TOUR,
            apply_default_css=False,
            padding=False,
        )
        link = gr.Textbox(visible="hidden", elem_id="ub-link")
        with gr.Tabs(elem_id="ub-tabs") as tabs:
            shared = SharedComponents(session, tabs, link)
            with gr.Tab(explore_page.TITLE, id="explore"):
                explore = explore_page.draw(session, initial, examples)
            with gr.Tab(feature_page.TITLE, id="feature"):
                feature = feature_page.draw(session, initial)
            with gr.Tab(search_page.TITLE, id="search"):
                search = search_page.draw(session)
            with gr.Tab(paint_page.TITLE, id="paint"):
                paint = paint_page.draw(session, initial)
            with gr.Tab(compare_page.TITLE, id="compare"):
                compare = compare_page.draw(session, initial.recipe)
            with gr.Tab(plots_page.TITLE, id="plots"):
                plots = plots_page.draw(session, initial.recipe)
            with gr.Tab(map_page.TITLE, id="map"):
                feature_map = map_page.draw(session)
            with gr.Tab(collections_page.TITLE, id="collections"):
                collections = collections_page.draw()
            with gr.Tab(blocks_page.TITLE, id="blocks"):
                events.html_component(blocks_page.body(session), elem_id="blocks-body")
            if session.comparison is not None:
                with gr.Tab(systems_page.TITLE, id="systems"):
                    found = systems_page.body(session, session.comparison)
                    events.html_component(found, elem_id="systems-body")
        for page in tabs.children:
            page.select(None, None, None, js=f"() => window.unboxHistory.opened('{page.id}')",
                        api_visibility="private", show_progress="hidden")  # fmt: skip
        # first: Gradio names events after functions, and a second one of a name gets a number
        api.add(session)
        explore_page.wire(shared, explore)
        feature_page.wire(shared, feature, explore, search)
        search_page.wire(shared, search)
        paint_events.wire(shared, paint, explore, feature)
        compare_page.wire(shared, compare, paint)
        plots_page.wire(shared, plots, paint)
        map_page.wire(shared, feature_map, feature)
        collections_page.wire(shared, collections, feature)
        pages = links.Pages(explore, feature, search, paint, compare, plots, feature_map, collections)
        links.wire(app, shared, pages)
        end_runs_of_leavers(app)
    app.queue(max_size=REQUESTS, default_concurrency_limit=8)
    bound_runs(app)
    return app


def end_runs_of_leavers(app: gr.Blocks) -> None:
    """The runs of a visitor who leaves end, as by Stop. To be called within the app."""

    async def end_runs(request: gr.Request) -> None:
        await cancel_tasks({f"{request.session_hash}_{number}" for number in app.fns})

    app.unload(end_runs)


def serve(
    session: ExplorerSession, host: str = "127.0.0.1", port: int | None = None, *,
    password: str | None = None, root_path: str = "", open_browser: bool = False, block: bool = True,
) -> gr.Blocks:  # fmt: skip
    """Serve the app. Away from this machine's own address a password is always asked for: the one given, or
    one that is made up and printed (the user is `unbox`). Torch has one thread while a small model is served,
    and as many as before when the app is closed. Raises FieldError for an address, port or password that
    cannot be."""
    host = checked(Host, "host", host, "serve")
    port = None if port is None else checked(Port, "port", port, "serve")
    password = None if password is None else checked(Password, "password", password, "serve")
    PICTURES.root = checked(RootPath, "root_path", root_path, "serve")
    Image.MAX_IMAGE_PIXELS = 4096 * 4096  # a small file must not inflate to gigabytes, whoever opens it
    local = is_local(host)
    if password is None and not local:
        password = secrets.token_urlsafe(9)
        print(f"Served beyond this machine: user unbox, password {password}")
    with ExitStack() as restored:
        if session.model(session.default).size <= SMALL:
            restored.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)  # threads of so small a model wait for each other: 4 s, not 0.2
        app = build(session)
        try:
            app.launch(
                server_name=host, server_port=port, inbrowser=open_browser, prevent_thread_lock=not block,
                auth=("unbox", password) if password else None, strict_cors=True, allowed_paths=[],
                max_file_size="1mb", state_session_capacity=200, share=False, quiet=True, ssr_mode=False,
                root_path=PICTURES.root or None, app_kwargs={"routes": [PICTURES.route()]},
                enable_monitoring=False, mcp_server=importlib.util.find_spec("mcp") is not None,
                footer_links=["api", "settings"], theme=theme(), css=events.STYLE,
                head=events.KEYS + events.HISTORY + events.ERRORS,
            )  # fmt: skip
        except OSError as error:
            raise UnboxError(f"cannot serve at {host}:{port}: {error}; try another --port") from error
        if not block:
            call_when_closed(app, restored.pop_all().close)
    return app


def call_when_closed(app: gr.Blocks, callback: Callable[[], None]) -> None:
    """Call back once the app has been closed."""
    close = app.close

    def closed(verbose: bool = True) -> None:
        try:
            close(verbose)
        finally:
            callback()

    app.close = closed  # type: ignore[method-assign]


def theme() -> gr.themes.Base:
    """Gradio's own theme, tighter and quieter."""
    return gr.themes.Default(
        primary_hue="orange", neutral_hue="stone", spacing_size="sm", radius_size="md",
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"],
    ).set(
        button_secondary_background_fill="*background_fill_primary",
        button_secondary_background_fill_dark="*background_fill_secondary",
        button_secondary_background_fill_hover="*background_fill_secondary",
        button_secondary_border_color="*border_color_primary", button_border_width="1px",
        # 4.5:1 at least on what lies behind (WCAG 2.2, 1.4.3)
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800", button_primary_text_color="white",
    )  # fmt: skip


def is_local(host: str) -> bool:
    """True for an address that only this machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def task_word(session: ExplorerSession, initial: InitialState) -> str:
    """What the first task turns something into: green, or what the best label says; empty without labels."""
    if session.atlas is None:
        return ""
    if session.atlas.search("green", Filter(labelled=True), limit=1):
        return "green"
    facts = facts_of(session, [initial.feature]).get(initial.feature) if initial.feature else None
    return facts.label.split(",")[0].split()[-1] if facts and facts.label else ""


def header_html(session: ExplorerSession, word: str = "") -> str:
    """The top of the app: what is open, the keys, a first task and the tour."""
    blocks = ", ".join(dict.fromkeys(sae.block for sae in session.saes.values()))
    count = sum(sae.latents for sae in session.saes.values())
    features = f"{count:,} features of {blocks}" if blocks else "no SAEs"
    return render("header.html", system=session.default, features=features, tour=TOUR, word=word,
                  brush=bool(session.brushes))  # fmt: skip
