"""The explorer in a real browser: every page opened, used and photographed; links and PNGs restore."""

import base64
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.explorer.conftest import served, stop

sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium on this machine: install the system's package chromium"
    ),
]
#: Milliseconds to wait for anything; a busy machine is slow, a broken page never comes.
PATIENCE = 60_000
#: Where screenshots are kept, if anywhere but a temporary folder.
SHOTS = os.environ.get("UNBOX_SCREENSHOTS")


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        sync_api.expect.set_options(timeout=PATIENCE)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, request):
    """A page that fails the test on any error of its scripts."""
    width = getattr(request, "param", 1440)
    page = chromium.new_page(viewport={"width": width, "height": 1000})
    page.set_default_timeout(PATIENCE)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    yield page
    page.close()
    assert not problems


@pytest.fixture
def shoot(tmp_path):
    def shoot(page, name: str) -> None:
        folder = Path(SHOTS) if SHOTS else tmp_path
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=folder / f"{name}.png", full_page=True)

    return shoot


@contextmanager
def proxy(upstream: str, path: str) -> Iterator[str]:
    """The address of a proxy that serves an app under a path."""
    script = Path(__file__).parent / "path_proxy.py"
    with subprocess.Popen([sys.executable, script, upstream, path], stdout=subprocess.PIPE) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()  # at once: pages hold connections open


def tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def make(page, url: str) -> None:
    """Open the app, make a picture on Explore, and wait for it: its link comes last."""
    page.goto(url)
    page.click("#explore-make")
    page.wait_for_url("**view=explore**")


def picture(page, selector: str) -> str:
    return page.locator(selector).first.get_attribute("src")


def same(page, selector: str, source: str) -> None:
    """Wait until a picture is this one."""
    sync_api.expect(page.locator(selector).first).to_have_attribute("src", source, timeout=PATIENCE)


def changed(page, selector: str, source: str) -> None:
    """Wait until a picture is no longer this one."""
    sync_api.expect(page.locator(selector).first).not_to_have_attribute("src", source, timeout=PATIENCE)


def drag(page, handle, to) -> None:
    """Drag from the middle of an element to that of another."""
    ends = [each.bounding_box() for each in (handle, to)]
    (x, y), end = ((box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in ends)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(*end, steps=5)
    page.mouse.up()


def paint(page, height: float = 0.3) -> None:
    """Draw a stroke on the canvas."""
    canvas = page.locator("#paint-canvas canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + height * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + (height + 0.1) * box["height"], steps=6)
    page.mouse.up()


def strength(page, layer: int, value: str) -> None:
    """Type the strength of a chosen layer, and wait until its row has it."""
    page.fill("#paint-strength input", value)
    page.press("#paint-strength input", "Enter")
    row = page.locator("#paint-layers .ub-layer").nth(layer)
    sync_api.expect(row.locator("output")).to_have_text(f"+{value}")


WIDE = """() => [...document.querySelectorAll('body *')]
  .filter((each) => each.getBoundingClientRect().right > window.innerWidth + 1
    && getComputedStyle(each).overflowX === 'visible' && !each.closest('.ub-table, .tab-container'))
  .map((each) => each.tagName + '.' + each.className).slice(0, 12)"""


def too_wide(page) -> list[str]:
    """What makes the page wider than the window."""
    whole = page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
    return [] if whole else page.evaluate(WIDE)


def test_explore_shows_what_fires_and_where(page, url, shoot):
    make(page, url)
    page.click("#explore-features .ub-chip >> nth=0")
    page.wait_for_selector("#explore-stage .ub-heat")
    page.locator("#explore-stage .ub-stage").click(position={"x": 60, "y": 60})
    page.wait_for_selector("#explore-place .ub-chip")
    mark = page.locator("#explore-stage [data-cross]")
    assert mark.is_visible()
    of_all = page.inner_text("#explore-place")
    page.get_by_role("radio", name="0", exact=True).check()  # the place's list is of this step now
    sync_api.expect(page.locator("#explore-place")).not_to_have_text(of_all)
    page.get_by_role("button", name="let the place go").click()
    sync_api.expect(mark).to_be_hidden()
    sync_api.expect(page.locator("#explore-place .ub-chip")).to_have_count(0)
    heat = page.locator("#explore-stage .ub-heat")
    page.locator("#explore-stage [data-opacity]").fill("20")
    assert float(heat.evaluate("each => getComputedStyle(each).opacity")) == pytest.approx(0.2)
    shoot(page, "explore")
    seen = picture(page, "#explore-stage .ub-picture")
    link = page.url
    assert "view=explore" in link
    page.fill("#explore-prompt textarea, #explore-prompt input", "a blue square")
    page.click("#explore-make")
    changed(page, "#explore-stage .ub-picture", seen)
    chosen = page.locator("#explore-features .ub-chip.ub-chosen").first
    assert heat.count() == 1  # the feature that was chosen is, in the new picture
    chosen.click()
    sync_api.expect(heat).to_have_count(0)
    page.goto("about:blank")
    page.goto(link)
    same(page, "#explore-stage .ub-picture", seen)


@pytest.mark.parametrize("page", [1440, 400], indirect=True)
def test_the_picture_and_what_is_chosen_stay_in_view(page, url):
    """From the foot of the page a feature that is chosen shows its heat in the window."""
    make(page, url)
    if page.viewport_size["width"] > 1000:  # no page of the tiny model is longer than so wide a window
        page.set_viewport_size({"width": 1440, "height": 500})
    last = page.locator("#explore-features .ub-chip").last
    last.scroll_into_view_if_needed()
    assert page.evaluate("window.scrollY") > 0
    last.click()
    page.wait_for_selector("#explore-stage .ub-heat")
    inside = """(name) => { const box = document.querySelector(name).getBoundingClientRect();
      const shown = Math.min(box.bottom, innerHeight) - Math.max(box.top, 0);
      return shown > 0.3 * Math.min(box.height, innerHeight); }"""
    page.wait_for_function(inside, arg="#explore-stage .ub-heat")
    if page.viewport_size["width"] < 1000:  # beside the list otherwise
        page.wait_for_function(inside, arg="#explore-card .ub-chosen-card")


def test_the_first_page_shows_a_picture_and_a_tour_that_stays_closed(page, url):
    page.goto(url)
    page.wait_for_selector("#explore-features .ub-chip")
    assert picture(page, "#explore-stage .ub-picture").startswith("/picture/")
    page.click("[data-tour=open]")
    page.click(".ub-tour button:has-text('Search')")
    page.wait_for_selector("#search-results .ub-card")
    page.click("[data-tour=close]")
    page.reload()
    page.wait_for_selector("#explore-make")
    assert not page.locator(".ub-tour").is_visible()
    page.click("[data-tour=open]")
    assert page.locator(".ub-tour").is_visible()


def test_a_run_can_be_stopped(page, url):
    page.goto(url)
    steps = page.get_by_label("Steps").first
    steps.fill("100")
    seen = picture(page, "#explore-stage .ub-picture")
    page.click("#explore-make")
    progress = page.locator("#explore-stage").get_by_text("sampling")
    progress.wait_for()
    page.click("#explore-stop")
    progress.wait_for(state="detached")  # until then a second click is none: a run is asked for once
    assert picture(page, "#explore-stage .ub-picture") == seen
    steps.fill("3")
    page.click("#explore-make")
    changed(page, "#explore-stage .ub-picture", seen)
    assert page.get_by_role("radio", name="2", exact=True).count()  # the steps of the second run
    assert not page.get_by_role("radio", name="3", exact=True).count()


def test_features_have_pages_links_and_keys(page, url, shoot):
    page.goto(f"{url}?view=feature&f=mid.0/3")
    page.wait_for_selector("#feature-body .ub-histogram")
    page.click("#feature-body .ub-interval >> nth=0")
    page.wait_for_selector("text=In this interval")
    opened = page.locator("#feature-body .ub-gallery").filter(has_text="In this interval")
    button = page.locator("#feature-body .ub-interval.ub-chosen small").inner_text()
    assert f"a peak of {button}" in opened.locator("h3").inner_text()
    low, high = (float(end) for end in button.split("\u2013"))
    peaks = [float(text) for text in opened.locator("figcaption b").all_inner_texts()]
    assert all(low - 0.05 <= peak <= high + 0.05 for peak in peaks), (button, peaks)
    page.click("#feature-try")
    page.wait_for_selector("#feature-strip img")
    page.click("#feature-causes")
    page.wait_for_selector("#feature-effects:has-text('random,')")
    page.wait_for_selector("#feature-effects:has-text('without a random feature')")
    page.wait_for_selector("#feature-effects:has-text('When it acts')")  # two steps
    shoot(page, "feature")
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("n")
    page.wait_for_selector("#feature-body .ub-title:has-text('mid.0/4')")
    page.wait_for_url("**/*f=mid.0%2F4")
    page.keyboard.press("p")
    page.wait_for_selector("#feature-body .ub-title:has-text('mid.0/3')")
    page.get_by_role("button", name="Edit the label").click()
    page.fill(
        "#feature-label textarea, #feature-label input",
        "<script>alert(1)</script> <img src=x onerror=alert(2)>",
    )
    page.click("#feature-save")
    page.wait_for_selector("#feature-body .ub-title:has-text('onerror')")
    assert page.locator("#feature-body .ub-title img").count() == 0


def test_a_relative_opens_at_its_top(page, url):
    page.set_viewport_size({"width": 1440, "height": 500})
    page.goto(f"{url}?view=feature&f=mid.0/3")
    page.wait_for_selector("#feature-body .ub-histogram")
    relative = page.locator("#feature-body .ub-chip").last
    name = relative.get_attribute("aria-label").split()[0]
    relative.scroll_into_view_if_needed()
    assert page.evaluate("window.scrollY") > 200
    relative.click()
    page.wait_for_selector(f"#feature-body .ub-title:has-text('{name}')")
    page.wait_for_function("() => window.scrollY === 0")


def test_search_finds_by_words_meaning_and_key(page, url, shoot):
    page.goto(url)
    page.wait_for_selector("#explore-make")
    page.keyboard.press("/")
    sync_api.expect(page.locator("#search-words textarea, #search-words input")).to_be_focused()
    page.keyboard.type("red")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results .ub-card")
    page.wait_for_url("**q=red")
    shoot(page, "search")
    page.get_by_role("radio", name="meaning").check()
    page.click("#search-find")
    page.wait_for_selector("text=likeness")
    page.fill("#search-words textarea, #search-words input", "qwertz")
    page.click("#search-find")
    page.wait_for_selector("text=No caption of the atlas holds 'qwertz'")
    page.fill("#search-words textarea, #search-words input", "red")
    page.click("#search-find")
    page.wait_for_url("**q=red&by=meaning")
    page.wait_for_selector("text=likeness")
    found, link = page.inner_text("#search-results"), page.url
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector("text=likeness")
    assert page.inner_text("#search-results") == found
    page.click("#search-results .ub-card >> nth=0")
    page.wait_for_selector("#feature-body .ub-histogram")


def test_painting_changes_the_picture_and_a_png_restores_it(page, url, shoot, tmp_path):
    make(page, url)
    page.click("#explore-features .ub-chip >> nth=-1")
    page.click("#explore-card button:has-text('Paint with it')")
    page.wait_for_selector("#paint-canvas img")
    paint(page)
    page.wait_for_selector("#paint-layers .ub-mask")  # the stroke is a layer
    strength(page, 0, "400")
    page.click("#paint-make")
    page.wait_for_selector("#paint-result .ub-compare")
    shoot(page, "paint")
    before, after = picture(page, "#paint-result [alt=before]"), picture(page, "#paint-result [alt=after]")
    assert before != after
    note = page.inner_text("#paint-result p").split()
    assert float(note[2]) > float(note[6])  # mean change A inside the mask, B outside
    with page.expect_download() as download:
        page.click("a.ub-save")
    saved = tmp_path / "saved.png"
    download.value.save_as(saved)
    link = page.url

    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector("#paint-result .ub-compare")
    same(page, "#paint-result [alt=after]", after)

    page.goto(url)
    tab(page, "Paint")
    page.set_input_files("#paint-drop input[accept='image/png']", saved)
    page.wait_for_selector("#paint-layers .ub-layer")
    same(page, "#paint-result [alt=after]", after)  # made by itself
    page.reload()
    tab(page, "Paint")
    page.wait_for_selector("#paint-canvas canvas")
    dropped = page.evaluate_handle(
        """(bytes) => { const all = new DataTransfer();
        all.items.add(new File([Uint8Array.from(atob(bytes), (each) => each.charCodeAt(0))], 'a.png'));
        return all; }""",
        base64.b64encode(saved.read_bytes()).decode(),
    )
    page.dispatch_event("#paint-canvas canvas", "drop", {"dataTransfer": dropped})  # anywhere on the page
    page.wait_for_selector("#paint-layers .ub-layer")
    same(page, "#paint-result [alt=after]", after)
    page.click("#paint-control")
    page.wait_for_selector("#paint-result p:has-text('random features instead')")
    page.get_by_role("button", name="Copy this picture as").click()
    sync_api.expect(page.locator("#paint-copied")).to_contain_text(
        '"draw": 0'
    )  # the copy is of what is shown
    assert "changed since" not in page.inner_text("#paint-stale")
    page.click("#paint-layers .ub-eye")
    page.wait_for_selector("#paint-layers .ub-off")
    page.wait_for_selector("#paint-stale:has-text('changed since this picture')")
    page.click("#paint-make")
    page.wait_for_function("() => document.querySelector('#paint-result [alt=after]').src === "
                           "document.querySelector('#paint-result [alt=before]').src")  # fmt: skip
    page.click("#paint-undo")
    page.wait_for_selector("#paint-layers .ub-layer:not(.ub-off)")


def labels(page) -> list[str]:
    """Names of the layers, from the first."""
    rows = page.locator("#paint-layers .ub-what small").all_inner_texts()
    return [row.split(" \u00b7 ")[0] for row in rows]


def take(page, place: int) -> str:
    """Take a swatch as the brush; its name."""
    swatch = page.locator("#paint-swatches .ub-swatch").nth(place)
    name = swatch.get_attribute("data-swatch")
    swatch.click()
    return name


def test_swatches_are_brushes_and_layers_have_one_history(page, url, shoot):
    make(page, url)
    page.click("#explore-paint")
    page.wait_for_selector("#paint-swatches .ub-swatch")
    first = take(page, 0)
    paint(page)  # at once: the stroke waits for the brush
    page.wait_for_selector("#paint-layers .ub-layer")
    second = take(page, 1)
    paint(page, 0.7)
    page.wait_for_selector("#paint-layers .ub-layer >> nth=1")
    assert labels(page) == [first, second]
    masks = page.locator("#paint-layers .ub-mask")
    one, two = (masks.nth(i).get_attribute("src") for i in (0, 1))
    assert one != two
    slider = page.locator("#paint-layers [data-strength]").nth(1)
    before = page.locator("#paint-layers output").nth(1).inner_text()
    assert float(before) >= 4  # by the feature's own largest activation
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect = sync_api.expect
    output = page.locator("#paint-layers output").nth(1)
    expect(output).not_to_have_text(before)
    assert float(output.inner_text()) == pytest.approx(float(before) + 0.1, abs=0.06)
    expect(page.locator("#paint-layers [data-strength]").nth(1)).to_be_focused()
    page.locator("#paint-layers .ub-grip").nth(1).focus()
    page.keyboard.press("ArrowUp")
    expect(page.locator("#paint-layers .ub-what small").first).to_contain_text(second)
    expect(page.locator("#paint-layers .ub-grip").first).to_be_focused()
    assert labels(page) == [second, first]
    drag(page, page.locator("#paint-layers .ub-grip").first, page.locator("#paint-layers .ub-layer").nth(1))
    expect(page.locator("#paint-layers .ub-what small").first).to_contain_text(first)
    shoot(page, "paint-layers")
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("Control+z")
    expect(page.locator("#paint-layers .ub-what small").first).to_contain_text(second)
    page.keyboard.press("Control+z")
    expect(page.locator("#paint-layers .ub-what small").first).to_contain_text(first)
    page.keyboard.press("Control+z")
    expect(page.locator("#paint-layers output").nth(1)).to_have_text(before)
    page.keyboard.press("Control+z")
    expect(page.locator("#paint-layers .ub-layer")).to_have_count(1)
    page.keyboard.press("Control+Shift+z")
    expect(page.locator("#paint-layers .ub-layer")).to_have_count(2)
    assert masks.nth(1).get_attribute("src") == two


def test_a_region_that_is_dragged_moves_what_fires_in_it(page, url):
    make(page, url)
    page.click("#explore-paint")
    page.wait_for_selector("#paint-swatches .ub-swatch")
    page.get_by_role("button", name="region", exact=True).click()
    paint(page)
    page.wait_for_timeout(300)
    assert page.locator("#paint-layers .ub-layer").count() == 0  # a region is no layer
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("v")
    box = page.locator("#paint-canvas canvas").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.7 * box["height"], steps=5)
    page.mouse.up()
    page.wait_for_selector("#paint-layers .ub-layer:has-text('features of')")
    seen = picture(page, "#paint-canvas .ub-picture")
    page.click("#paint-make")
    page.wait_for_selector("#paint-film img")
    assert picture(page, "#paint-result [alt=after]") != seen
    count = page.locator("#paint-layers .ub-layer").count()
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("Control+z")
    sync_api.expect(page.locator("#paint-layers .ub-layer")).to_have_count(0)
    assert count >= 1
    take(page, 0)
    paint(page)
    mask = page.locator("#paint-layers .ub-mask")
    mask.wait_for()
    before = mask.get_attribute("src")
    page.get_by_role("button", name="move", exact=True).click()
    paint(page, 0.3)  # dragged: the layer's mask goes along
    sync_api.expect(mask).not_to_have_attribute("src", before)


def test_a_change_is_drawn_by_itself_where_a_picture_takes_little_time(page, url):
    make(page, url)
    page.click("#explore-paint")
    page.wait_for_selector("#paint-swatches .ub-swatch")
    take(page, 0)
    paint(page)
    page.wait_for_selector("#paint-result [alt=after]")  # nobody has pressed Generate
    first = picture(page, "#paint-result [alt=after]")
    strength(page, 0, "400")
    changed(page, "#paint-result [alt=after]", first)
    sync_api.expect(page.locator("#paint-stale .ub-stale")).to_have_count(0)
    assert page.locator("#paint-film img").count() >= 2


def test_live_shows_frames_while_a_strength_is_dragged_and_their_rate(page, url, shoot):
    make(page, url)
    page.click("#explore-paint")
    page.wait_for_selector("#paint-swatches .ub-swatch")
    page.get_by_label("Steps", exact=True).locator("visible=true").first.fill("1")
    page.get_by_label("Live: a frame for each change").check()
    take(page, 0)
    paint(page)
    live = page.locator("#paint-frame [alt=live]")
    live.wait_for()
    strength(page, 0, "400")  # the tiny model hears no less
    page.wait_for_selector("#paint-film img")
    sync_api.expect(page.locator("#paint-stale .ub-stale")).to_have_count(0)
    slider = page.locator("#paint-layers [data-strength]")
    slider.scroll_into_view_if_needed()  # a mouse outside of the window holds nothing
    box = slider.bounding_box()
    frames = set()
    page.mouse.move(box["x"] + 0.98 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    for share in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
        seen = live.get_attribute("src")
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        changed(page, "#paint-frame [alt=live]", seen)
        frames.add(live.get_attribute("src"))
    assert len(frames) > 5  # before the button is let go
    page.mouse.up()
    assert float(page.locator("#paint-frame [data-rate]").get_attribute("data-rate")) > 0
    shoot(page, "paint-live")
    assert float(page.locator("#paint-layers output").inner_text()) < 200
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("Control+z")  # one change, however many frames it had
    sync_api.expect(page.locator("#paint-layers output")).to_have_text("+400")
    page.get_by_label("Live: a frame for each change").uncheck()
    sync_api.expect(live).to_have_count(0)


def test_the_palette_is_searched_by_words_and_keeps_what_is_liked(page, url):
    make(page, url)
    page.click("#explore-paint")
    page.wait_for_selector("#paint-swatches .ub-swatch")
    liked = page.locator("#paint-swatches .ub-star").nth(1)
    name = liked.get_attribute("data-like")
    liked.click()
    sync_api.expect(liked).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="all", exact=True).click()
    page.get_by_label("search features by words").fill("xyzzy")
    page.wait_for_selector("#paint-swatches:has-text('No feature fits')")
    page.get_by_label("search features by words").fill("red")
    page.wait_for_selector("#paint-swatches .ub-swatch")
    page.get_by_label("search features by words").fill("")
    page.get_by_role("button", name="liked", exact=True).click()
    page.wait_for_selector(f"#paint-swatches .ub-swatch[data-swatch='{name}']")
    sync_api.expect(page.locator("#paint-swatches .ub-swatch")).to_have_count(1)
    page.reload()
    tab(page, "Paint")
    page.get_by_role("button", name="liked", exact=True).click()
    sync_api.expect(page.locator("#paint-swatches .ub-swatch")).to_have_count(1)


def test_the_film_strip_goes_back_to_a_picture_and_to_what_it_was_made_of(page, url):
    make(page, url)
    page.click("#explore-paint")
    page.wait_for_selector("#paint-swatches .ub-swatch")
    take(page, 0)
    paint(page)
    page.wait_for_selector("#paint-layers .ub-layer")
    page.click("#paint-make")
    page.wait_for_selector("#paint-film img")
    first, begun = (
        picture(page, "#paint-result [alt=after]"),
        page.locator("#paint-layers output").inner_text(),
    )
    strength(page, 0, "500")
    page.click("#paint-make")
    sync_api.expect(page.locator("#paint-film img")).to_have_count(2)
    changed(page, "#paint-result [alt=after]", first)
    page.locator("#paint-film button").nth(1).click()
    same(page, "#paint-result [alt=after]", first)
    sync_api.expect(page.locator("#paint-layers output")).to_have_text(begun)
    assert page.locator("#paint-stale .ub-stale").count() == 0


def test_an_edit_that_is_added_during_a_run_stays(page, url):
    make(page, url)
    page.click("#explore-features .ub-chip >> nth=0")
    page.click("#explore-card button:has-text('Paint with it')")
    page.wait_for_selector("#paint-canvas img")
    page.click("#paint-add")
    page.wait_for_selector("#paint-layers .ub-layer")
    page.get_by_label("Steps", exact=True).locator("visible=true").first.fill("60")
    page.click("#paint-make")
    page.locator("#paint-result").get_by_text("sampling").wait_for()
    page.click("#paint-add")
    page.wait_for_selector("#paint-layers .ub-layer >> nth=1")
    page.wait_for_selector("#paint-result .ub-compare")
    page.wait_for_selector("#paint-stale:has-text('changed since this picture')")
    assert page.locator("#paint-layers .ub-layer").count() == 2
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("Control+z")
    sync_api.expect(page.locator("#paint-layers .ub-layer")).to_have_count(1)
    sync_api.expect(page.locator("#paint-stale .ub-stale")).to_have_count(0)


def test_back_goes_from_a_feature_to_the_one_before_and_to_the_picture(page, url):
    make(page, url)
    page.goto(f"{url}?view=feature&f=mid.0/3")
    page.wait_for_selector("#feature-body .ub-title:has-text('mid.0/3')")
    page.click("#feature-after")
    page.wait_for_selector("#feature-body .ub-title:has-text('mid.0/4')")
    page.wait_for_url("**/*f=mid.0%2F4")
    page.wait_for_function("document.title.includes('mid.0/4')")
    tab(page, "Blocks")
    page.wait_for_url("**view=blocks")
    page.go_back()
    page.wait_for_selector("#feature-body .ub-title:has-text('mid.0/4')")
    page.go_back()
    page.wait_for_selector("#feature-body .ub-title:has-text('mid.0/3')")


def test_back_to_a_picture_at_hand_runs_nothing_and_fetches_nothing(page, url):
    make(page, url)
    seen = picture(page, "#explore-stage .ub-picture")
    page.fill("#explore-prompt textarea, #explore-prompt input", "a blue square")
    page.click("#explore-make")
    changed(page, "#explore-stage .ub-picture", seen)
    page.wait_for_url("**view=explore**")
    other = picture(page, "#explore-stage .ub-picture")
    asked: list[str] = []
    page.on("request", lambda each: asked.append(each.url) if "queue/join" in each.url else None)
    page.click("#explore-features .ub-chip >> nth=0")
    page.wait_for_selector("#explore-stage .ub-heat")
    page.go_back()
    same(page, "#explore-stage .ub-picture", seen)
    page.go_forward()
    same(page, "#explore-stage .ub-picture", other)
    assert len(asked) == 3  # the feature, back, forward: none of them a run's second event
    sent = page.evaluate("""(name) => performance.getEntriesByType('resource')
      .filter((each) => each.name.endsWith(name)).map((each) => each.transferSize)""", other)  # fmt: skip
    assert [size > 0 for size in sent].count(True) <= 1, sent


def test_behind_a_proxy_that_serves_it_under_a_path(page, home, shoot):
    process, said = served(home, "--root-path", "/lab/unbox")
    found = re.search(r"at (http\S+?)/?(?:lab/unbox)?/? ", said)
    assert found is not None
    try:
        with proxy(found[1], "/lab/unbox") as address:
            page.goto(f"{address}/lab/unbox/")
            page.click("#explore-make")
            page.wait_for_url("**/lab/unbox/?view=explore**")
            shown = page.locator("#explore-stage .ub-picture").first
            assert shown.get_attribute("src").startswith("/lab/unbox/picture/")
            assert shown.evaluate("(each) => each.decode().then(() => each.naturalWidth)") == 64
            link = page.url
            page.goto("about:blank")
            page.goto(link)
            same(page, "#explore-stage .ub-picture", shown.get_attribute("src"))
    finally:
        stop(process)


def test_the_order_of_features_stays_for_the_next_picture(page, url):
    make(page, url)
    page.get_by_role("radio", name="strongest").check()
    strengths = """() => [...document.querySelectorAll('#explore-features .ub-group')].map(
      (group) => [...group.querySelectorAll('small')].slice(1))
      .map((row) => row.map((each) => Number(each.innerText.split('\u00b7')[1])))"""
    rows = "(row) => row.every((each, i) => i === 0 || row[i - 1] >= each)"
    falling = f"() => ({strengths})().every({rows})"
    page.wait_for_function(falling)
    seen = picture(page, "#explore-stage .ub-picture")
    page.fill("#explore-prompt textarea, #explore-prompt input", "a blue square")
    page.click("#explore-make")
    changed(page, "#explore-stage .ub-picture", seen)
    assert page.evaluate(falling)


def test_a_photo_of_ones_own_is_a_start(page, url, tmp_path, shoot):
    from PIL import Image

    Image.linear_gradient("L").resize((300, 200)).convert("RGB").save(tmp_path / "mine.jpg")
    page.goto(url)
    tab(page, "Paint")
    page.wait_for_selector("#paint-swatches .ub-swatch")
    page.set_input_files("#paint-drop [data-photo]", tmp_path / "mine.jpg")
    page.wait_for_selector("#paint-layers .ub-photo")
    page.wait_for_selector("#paint-result p:has-text('your photo, drawn again: PSNR')")
    first = picture(page, "#paint-result [alt=before]")
    take(page, 0)
    paint(page)
    page.wait_for_selector("#paint-layers .ub-mask")
    strength(page, 0, "400")
    page.click("#paint-make")
    sync_api.expect(page.locator("#paint-film img")).to_have_count(2)
    assert picture(page, "#paint-result [alt=before]") == first != picture(page, "#paint-result [alt=after]")
    shoot(page, "paint-photo")
    page.get_by_role("button", name="without it").click()
    sync_api.expect(page.locator("#paint-layers .ub-photo")).to_have_count(0)
    (tmp_path / "text.jpg").write_text("no picture")
    page.set_input_files("#paint-drop [data-photo]", tmp_path / "text.jpg")
    page.wait_for_selector("text=no picture that the browser reads")


def test_foreign_and_damaged_pngs_are_refused(page, url, tmp_path):
    from PIL import Image

    Image.new("1", (6000, 6000)).save(tmp_path / "large.png")
    (tmp_path / "text.png").write_text("no picture")
    page.goto(url)
    tab(page, "Paint")
    for name, message in (("large.png", "holds no recipe"), ("text.png", "not a PNG")):
        page.set_input_files("#paint-drop input[accept='image/png']", tmp_path / name)
        page.wait_for_selector(f"text={message}")


def test_compare_and_blocks(page, url, shoot):
    make(page, url)
    page.click("#explore-features .ub-chip >> nth=-1")
    page.click("#explore-card button:has-text('Paint with it')")
    page.fill("#paint-strength input", "400")
    page.click("#paint-add")
    page.wait_for_selector("#paint-layers .ub-layer")
    page.click("#paint-keep")
    page.wait_for_selector("text=Kept")
    tab(page, "Compare")
    page.click("#compare-right input")
    page.get_by_role("option", name="edits kept in Paint").click()
    page.click("#compare-make")
    page.wait_for_selector("#compare-result img")
    shoot(page, "compare")
    left, right = (page.locator("#compare-result img").nth(i).get_attribute("src") for i in (0, 1))
    assert left != right
    page.wait_for_url("**view=compare**")
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    same(page, "#compare-result .ub-three img >> nth=1", right)
    assert page.locator("#compare-right input").input_value() == "the link's right"
    page.get_by_role("radio", name="largest change").check()
    page.click("#compare-make")  # what the controls say is what is shown
    page.wait_for_timeout(500)
    page.wait_for_selector("#compare-result img")
    same(page, "#compare-result .ub-three img >> nth=1", right)
    tab(page, "Blocks")
    page.wait_for_selector("#blocks-body table")
    shoot(page, "blocks")


@pytest.mark.parametrize("page", [400], indirect=True)
def test_narrow_screens(page, url, shoot):
    make(page, url)
    shoot(page, "narrow-explore")
    assert too_wide(page) == []
    page.goto(f"{url}?view=feature&f=up.1.2/1")
    page.wait_for_selector("#feature-body .ub-histogram")
    shoot(page, "narrow-feature")
    assert too_wide(page) == []
    for name, part in (("Paint", "canvas"), ("Search", "results"), ("Compare", "result"), ("Blocks", "body")):
        page.evaluate("name => window.unboxTab(name)", name)
        page.wait_for_selector(f"#{name.lower()}-{part}")
        shoot(page, f"narrow-{name.lower()}")
        assert too_wide(page) == [], name


def test_dark_mode(page, url, shoot):
    make(page, f"{url}?__theme=dark")
    chip = page.locator("#explore-features .ub-chip").first
    red, green, blue = chip.evaluate(
        "each => getComputedStyle(each).backgroundColor.match(/\\d+/g).map(Number)"
    )[:3]
    assert red + green + blue < 200
    shoot(page, "dark")


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("view=explore&r=x", "should be whole"),
        ("view=paint&r=%00", "control character"),
        ("view=feature&f=<script>alert(1)</script>", "should be like"),
        ("view=compare&r=AAAA", "should be whole"),
        ("view=" + "x" * 300, "is unknown, there are"),
        ("view=search&q=" + "%22" * 50, "No feature fits"),
        ("view=search&q=red&step=%3Cb%3E", "or a step like"),
    ],
)
def test_malformed_links_open_the_page_all_the_same(page, url, query, answer):
    """Each link is answered first: one that can be opened opens its page, and Explore's button is not there
    until its tab is."""
    page.goto(f"{url}?{query}")
    page.wait_for_selector(f"text={answer}")
    tab(page, "Explore")
    page.click("#explore-make")
    page.wait_for_url("**view=explore**")
