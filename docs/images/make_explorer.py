"""The explorer's pictures in the README, from the bundled model: `python docs/images/make_explorer.py`.

Opens `python app.py` and uses it in the system's Chromium, as `tests/explorer/test_browser.py` does.
"""

import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from unbox.atlas import Atlas, Filter
from unbox.experiments.feature_strengths import read_strengths
from unbox.explorer.open_session import BUNDLED

HERE = Path(__file__).parent
#: Width and height of the window, and most bytes of a picture.
SIZE, MOST = (1440, 1000), 300_000
#: The bundled brush known to bring green about, where its slider starts (in deviations), and the seed
#: of the picture.
KNOWN = read_strengths(BUNDLED / "strengths.json").known
GREEN = next(name for name, known in KNOWN.items() if known.value == "green")
START = KNOWN[GREEN].start or KNOWN[GREEN].strength
SEED = "4"
#: The feature that is found first by "green", whose page is shown.
TELLING = Atlas.open(BUNDLED / "atlas").search("green", Filter(block="up.0.1"))[0].name
#: Width of the animated picture, and its most bytes; heights of strokes (shares of the canvas), strengths.
FRAME, MOST_ANIMATED = 900, 1_500_000
STROKES, STRENGTHS = (0.36, 0.48, 0.6), tuple(round(share * START, 2) for share in (0.25, 0.5, 0.7, 0.85, 1))


def main(out: Path) -> None:
    with tempfile.TemporaryFile("w+") as log:
        app = [sys.executable, str(HERE.parents[1] / "app.py")]
        process = subprocess.Popen(app, stdout=log, stderr=subprocess.STDOUT, text=True)
        try:
            url = address(log, process)
            chromium = shutil.which("chromium") or shutil.which("google-chrome")
            with sync_playwright() as playwright:
                options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
                browser = playwright.chromium.launch(executable_path=chromium, args=options)
                page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
                page.set_default_timeout(120_000)
                page.goto(url)
                page.click("[data-task-close]")
                for name, use in (("explore", explore), ("paint", paint), ("feature", feature)):
                    use(page, url)
                    save(page, out / f"explorer-{name}.png")
                save_animation(painting(page, url), out / "explorer-painting.webp")
                browser.close()
        finally:
            process.terminate()
            process.wait(timeout=30)


def address(log: io.TextIOBase, process: subprocess.Popen) -> str:
    """Where the app answers, once it does."""
    while True:
        log.seek(0)
        said = log.read()
        if found := re.search(r"at (http\S+)", said):
            return found[1]
        if process.poll() is not None:
            raise RuntimeError(said)
        time.sleep(0.2)


def explore(page: Page, _: str) -> None:
    """A picture, the heat of a feature on it, what fires at a place."""
    page.get_by_label("Seed").first.fill(SEED)
    page.click("#explore-make")
    page.wait_for_url("**view=explore**")
    page.locator("#explore-features .ub-chip").first.click()
    page.wait_for_selector("#explore-stage .ub-heat")
    box = page.locator("#explore-stage .ub-stage").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.48 * box["height"])
    page.wait_for_selector("#explore-place .ub-chip")


def paint(page: Page, _: str) -> None:
    """One of two shapes painted over with another colour's feature."""
    page.click("#explore-paint")
    page.get_by_role("button", name="all", exact=True).click()
    page.get_by_label("search features by words").fill(GREEN)
    page.click(f"#paint-swatches [data-swatch='{GREEN}']")
    page.fill("#paint-strength input", str(START))
    page.press("#paint-strength input", "Enter")
    page.locator("#paint-canvas [data-brush]").fill("8")
    for height in STROKES:
        stroke(page, height)
    page.wait_for_selector("#paint-layers .ub-mask")
    page.click("#paint-make")
    page.wait_for_selector("#paint-result .ub-compare")
    page.locator("#paint-result [data-cut]").fill("25")


def painting(page: Page, url: str) -> list[tuple[Image.Image, int]]:
    """Frames of a feature that is found, painted with and turned up, with the milliseconds of each."""
    frames: list[tuple[Image.Image, int]] = []

    def frame(milliseconds: int) -> None:
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        size = FRAME, round(picture.height * FRAME / picture.width)
        frames.append((picture.resize(size, Image.Resampling.LANCZOS), milliseconds))

    page.set_viewport_size({"width": 1240, "height": 800})
    page.goto(f"{url}?{urlencode({'view': 'paint'})}")
    page.wait_for_selector("#paint-canvas img")
    page.evaluate("document.querySelector('#paint-palette').scrollIntoView()")
    frame(1200)
    page.get_by_role("button", name="all", exact=True).click()
    page.get_by_label("search features by words").press_sequentially("green", delay=30)
    page.wait_for_selector(f"#paint-swatches [data-swatch='{GREEN}']")
    page.wait_for_timeout(800)
    frame(1000)
    page.click(f"#paint-swatches [data-swatch='{GREEN}']")
    page.wait_for_selector(f"#paint-swatches .ub-chosen[data-swatch='{GREEN}']")
    frame(700)
    page.locator("#paint-canvas [data-brush]").fill("8")
    for height in STROKES:
        stroke(page, height)
        frame(250)
    page.wait_for_selector("#paint-layers .ub-mask")
    page.click("#paint-make")
    after = page.locator("#paint-result [alt=after]")
    after.wait_for()
    page.wait_for_timeout(1000)
    page.locator("#paint-result [data-cut]").fill("0")
    frame(1200)
    for strength in STRENGTHS:
        seen = after.get_attribute("src")
        page.fill("#paint-strength input", str(strength))
        page.press("#paint-strength input", "Enter")
        page.wait_for_timeout(1500)
        page.click("#paint-make")
        page.wait_for_function(
            "(old) => document.querySelector('#paint-result [alt=after]').src !== old", arg=seen
        )
        page.wait_for_timeout(3000)  # the run's veil is gone
        page.locator("#paint-result [data-cut]").fill("0")
        frame(600 if strength != STRENGTHS[-1] else 2500)
    return frames


def stroke(page: Page, height: float) -> None:
    """A stroke over the left shape, at a height in shares of the canvas."""
    box = page.locator("#paint-canvas canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.12 * box["width"], box["y"] + height * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.38 * box["width"], box["y"] + height * box["height"], steps=8)
    page.mouse.up()


def save_animation(frames: list[tuple[Image.Image, int]], path: Path) -> None:
    """An animated WebP that goes round."""
    (first, *others), durations = zip(*frames, strict=True)
    options = {"duration": list(durations), "loop": 0, "quality": 70, "method": 4}
    first.save(path, save_all=True, append_images=others, **options)
    print(f"{path}: {path.stat().st_size:,} bytes, {len(frames)} frames")
    assert path.stat().st_size <= MOST_ANIMATED


def feature(page: Page, url: str) -> None:
    """A feature's page with its icon and strengths."""
    page.goto(f"{url}?{urlencode({'view': 'feature', 'f': TELLING})}")
    page.wait_for_selector(f"#feature-body .ub-title:has-text('{TELLING}')")
    page.get_by_label("Seed").locator("visible=true").first.fill(SEED)
    page.click("#feature-try")
    page.wait_for_selector("#feature-strip img")


def save(page: Page, path: Path) -> None:
    """The window, from the top of the page, as a PNG; in 256 colours where all of them take too much."""
    page.evaluate("window.scrollTo(0, 0)")
    page.mouse.move(2, 2)
    page.wait_for_timeout(1000)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.save(path, optimize=True)
    if path.stat().st_size > MOST:
        picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")
    assert path.stat().st_size <= MOST


if __name__ == "__main__":
    main(HERE)
