"""The explorer: its pages in one Gradio app, and how it is served."""

import importlib.util
import ipaddress
import secrets
from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from unbox.explorer import api, arrivals, shell
from unbox.explorer.lab import Lab
from unbox.explorer.pages import blocks, compare, explore, feature, paint, search
from unbox.explorer.parts import Shell
from unbox.explorer.recipe import Recipe
from unbox.words import UnboxError

#: Prompts to try in the Shapes world, and elsewhere.
SHAPES = (
    "a large solid red circle in the center on a gray background, bright light",
    "a small striped blue star left of a large checkered green heart on a navy background, dim light",
    "a large dotted yellow triangle at the top on a teal background, light from the left",
    "a small solid white cross on the right on a plum background, bright light",
)
OTHERS = (
    "a dog on a beach, cartoon",
    "a photo of a red sports car in the mountains",
    "portrait of an old sailor, oil painting",
)
TOUR = """<details class="ub-tour" {open}><summary>A short tour</summary><ol>
<li><b>Explore</b>: choose a prompt. The features that fired appear beside the picture, by block.</li>
<li>Choose a feature: its heat lies over the picture. Click the picture: what fires there is listed.</li>
<li>Open its page: its top images beside random ones, its neighbours, its strength on a picture.</li>
<li><b>Paint with it</b>: paint a mask, add the edit, generate; save a PNG that carries its recipe.</li>
<li>Keys: <kbd>/</kbd> searches, <kbd>n</kbd> and <kbd>p</kbd> go through the features.</li></ol></details>"""


def build(lab: Lab) -> gr.Blocks:
    """The app of a lab, not yet served."""
    shapes = lab.default.startswith("shapes") or lab.model(lab.default).size <= 128
    examples = list(SHAPES if shapes else OTHERS)
    first = Recipe(**{**vars(lab.defaults(lab.default)), "prompt": examples[0]})
    with gr.Blocks(
        title="unbox", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as app:
        gr.HTML(_top(lab), apply_default_css=False)
        link = gr.Textbox(visible="hidden", elem_id="ub-link")
        with gr.Tabs(elem_id="ub-tabs") as tabs:
            pages: dict[str, Any] = {}
            for name, page, draw in (
                ("explore", explore, lambda: explore.draw(lab, first, examples)),
                ("feature", feature, lambda: feature.draw(lab, first)),
                ("search", search, lambda: search.draw(lab)),
                ("paint", paint, lambda: paint.draw(lab, first)),
                ("compare", compare, lambda: compare.draw(lab, first)),
                ("blocks", blocks, lambda: blocks.draw(lab)),
            ):
                with gr.Tab(page.TITLE, id=name):
                    pages[name] = draw()
        frame = Shell(lab, shell.Stops(), tabs, link, pages)
        for wired in (explore, feature, search, paint, compare):
            wired.wire(frame)
        arrivals.wire(app, frame)
        api.add(frame)
        app.unload(frame.stops.stop)
    return app.queue(max_size=shell.QUEUE, default_concurrency_limit=8)


def serve(
    lab: Lab,
    host: str = "127.0.0.1",
    port: int | None = None,
    *,
    password: str | None = None,
    open_browser: bool = False,
    block: bool = True,
) -> gr.Blocks:
    """Serve the app. Away from this machine's own address a password is always asked for: the one given, or
    one that is made up and printed (the user is `unbox`)."""
    Image.MAX_IMAGE_PIXELS = 4096 * 4096  # a small file must not inflate to gigabytes, whoever opens it
    local = is_local(host)
    if password is None and not local:
        password = secrets.token_urlsafe(9)
        print(f"Served beyond this machine: user unbox, password {password}")
    app = build(lab)
    try:
        app.launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            prevent_thread_lock=not block,
            auth=("unbox", password) if password else None,
            share=False,
            quiet=True,
            ssr_mode=False,
            enable_monitoring=False,
            allowed_paths=[],
            max_file_size="1mb",
            state_session_capacity=200,
            strict_cors=True,
            mcp_server=importlib.util.find_spec("mcp") is not None,
            footer_links=["api", "settings"],
            theme=gr.themes.Default(
                primary_hue="orange", neutral_hue="stone", font=["system-ui", "sans-serif"],
                font_mono=["ui-monospace", "monospace"],
            ),
            css=shell.STYLE,
            head=shell.KEYS,
        )  # fmt: skip
    except OSError as error:
        raise UnboxError(f"cannot serve at {host}:{port}: {error}; try another --port") from error
    return app


def is_local(host: str) -> bool:
    """True for an address that only this machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _top(lab: Lab) -> str:
    names = ", ".join(dict.fromkeys(sae.block for sae in lab.saes.values()))
    what = f"{sum(sae.latents for sae in lab.saes.values()):,} features of {names}" if names else "no SAEs"
    return (
        f'<header class="ub-top"><h1>unbox</h1><p>{escape(lab.default)}: {escape(what)}</p></header>'
        + TOUR.format(open="open")
    )


__all__: Sequence[str] = ("build", "serve")
