"""Brushes of the bundled model: in the palette, with a slider from 0 to 1, in every copy, with a page."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.explorer.test_browser import PATIENCE, chromium, page, shoot, sync_api  # noqa: F401
from tests.explorer.test_browser import pytestmark as in_a_browser
from tests.explorer.test_first_task import bundled_url, stroke  # noqa: F401
from unbox import load
from unbox.edit import Edits
from unbox.explorer import open_session
from unbox.explorer.api import Endpoints
from unbox.explorer.canvas_state import CanvasState
from unbox.explorer.feature_scale import feature_scale
from unbox.explorer.feature_summaries import cover
from unbox.explorer.interface import SHAPES
from unbox.explorer.layers import layers_html
from unbox.explorer.pages import feature_page
from unbox.explorer.pages.paint_page import COPIES
from unbox.explorer.palette import PaletteQuery, first_query, lists_of, swatches_html
from unbox.ground_truth.effects import readings
from unbox.mask import Mask
from unbox.shapes import FACTORS
from unbox.shapes.detector import Detector

BRUSHES = open_session.BUNDLED / "brushes" / "up.0.1-factors"


@pytest.fixture(scope="module")
def bundled():
    return open_session.open_session(load(open_session.SYSTEM))


@pytest.fixture
def painted(bundled):
    """A recipe with the left half in green, and the brush's name."""
    name = next(n for n, known in bundled.strengths.items() if known.value == "green")
    edit = bundled.feature(name).add(
        feature_scale(bundled, name).start, unit="deviation", where=Mask.of((0.0, 0.2, 0.5, 0.8))
    )
    plain = replace(bundled.defaults(bundled.default), prompt=SHAPES[0])
    return replace(plain, edits=Edits((edit,))), name


def test_the_palette_opens_on_the_brushes_called_by_their_values(bundled):
    assert lists_of(bundled)[0][0] == first_query(bundled).among == "brushes"
    html = swatches_html(bundled, bundled.defaults(bundled.default), first_query(bundled))
    found = re.findall(r'title="(up\.0\.1-factors/\d+) (\w+)"', html)
    assert {label for _, label in found} == {*FACTORS["colour"], *FACTORS["texture"]}
    known = [name in bundled.strengths for name, _ in found]
    assert known == sorted(known, reverse=True)
    one = swatches_html(bundled, bundled.defaults(bundled.default), PaletteQuery("brushes", "green"))
    assert re.findall(r'data-swatch="([^"]+)"', one) == [name for name, label in found if label == "green"]
    other = swatches_html(bundled, bundled.defaults(bundled.default), PaletteQuery("brushes", "heart"))
    assert "heart" in other  # no brush: features
    assert "up.0.1-factors" not in other


def test_a_brush_shows_what_it_is_made_of(bundled):
    html = swatches_html(bundled, bundled.defaults(bundled.default), PaletteQuery("brushes", "green"))
    name = re.findall(r'data-swatch="([^"]+)"', html)[0]
    directions = json.loads(BRUSHES.joinpath("config.json").read_text())["meta"]["directions"]
    parts = next(each["parts"] for each in directions if each["label"] == "green")
    heaviest = max(parts, key=parts.get)
    assert cover(bundled, name) == bundled.atlas.cover(heaviest)
    assert cover(bundled, name) != bundled.atlas.cover(min(parts, key=parts.get))
    assert html.count("<img") == 1


def test_sessions_without_brushes_have_no_such_list(session):
    assert [name for name, _ in lists_of(session)] == ["picture", "liked", "all"]


def test_its_slider_goes_from_0_to_1_or_to_where_it_starts(bundled, painted):
    recipe, name = painted
    scale = feature_scale(bundled, name)
    html = layers_html(bundled, CanvasState(recipe))
    assert scale.origin.startswith("calibrated: colour green is read from 1 on")
    assert f'data-unit="{scale.unit}" min="0"' in html
    assert f'value="{scale.start / scale.unit:g}"' in html
    assert "green" in html


def test_the_object_that_is_painted_over_has_the_colour_and_the_other_its_own(bundled, painted):
    recipe, _ = painted
    pictures = bundled.generate([recipe.plain, recipe, bundled.random_control(recipe)])
    read = [[slot["colour"] for slot in each["slots"]] for each in Detector.load().read(pictures)]
    assert read == [["red", "yellow"], ["green", "yellow"], ["red", "yellow"]]


def test_copies_make_the_same_picture_without_the_brushes(bundled, painted, tmp_path, monkeypatch):
    """Python and the command line's file: the vector is written out, no SAE is asked for."""
    recipe, name = painted
    recipe = replace(recipe, seed=5)  # of which no picture is kept that was made among others
    (wanted,) = bundled.generate([recipe])
    monkeypatch.chdir(tmp_path)
    for copied in (recipe, replace(bundled.random_control(recipe), draw=0)):
        text = COPIES["Python"](copied, bundled)
        assert name.rpartition("/")[0] not in text
        exec(text, {})
        (made,) = bundled.generate([copied])
        np.testing.assert_array_equal(np.asarray(Image.open("image.png").convert("RGB")), np.asarray(made))
    assert "up.0.1-factors" not in COPIES["command line"](recipe, bundled)
    assert "up.0.1-factors" not in COPIES["experiment"](recipe, bundled)
    fresh = open_session.open_session(load(open_session.SYSTEM))
    (again,) = fresh.generate([type(recipe).from_text(COPIES["JSON"](recipe, bundled))])
    np.testing.assert_array_equal(np.asarray(again), np.asarray(wanted))
    assert Path("image.png").is_file()


def test_it_has_a_page_and_the_api_knows_it(bundled, painted):
    _, name = painted
    html = feature_page.body(bundled, name, None)
    assert re.search(rf"green <small>{re.escape(name)} · factor", html)
    assert "is read from 1 on" in html
    assert len(set(re.findall(r'"feature": "(up\.0\.1/\d+)"', html))) > 20  # what it is made of
    found = Endpoints(bundled).feature(name)
    assert found["label"] == "green"
    assert len(found["direction"]["parts"]) == len(set(found["direction"]["parts"])) > 20


@in_a_browser[0]
@in_a_browser[1]
def test_a_colour_is_painted_and_its_slider_takes_it_back(page, bundled_url, shoot):  # noqa: F811
    page.goto(bundled_url)
    page.get_by_role("tab", name="Paint", exact=True).click()
    swatch = page.locator("#paint-swatches .ub-swatch", has_text=re.compile(r"^\s*blue"))
    swatch.click()
    stroke(page)
    slider = page.locator("#paint-layers .ub-layer input[type=range]")
    slider.wait_for()
    page.click("#paint-make")
    after = page.get_by_role("img", name="after", exact=True)
    after.wait_for(timeout=PATIENCE)
    shoot(page, "brush")
    assert colour_of(page, bundled_url, after) == "blue"
    assert (slider.get_attribute("min"), float(slider.get_attribute("max")) >= 1) == ("0", True)
    source = after.get_attribute("src")
    slider.focus()
    slider.press("Home")
    sync_api.expect(page.locator("#paint-layers .ub-layer output")).to_have_text("+0")
    page.click("#paint-make")
    sync_api.expect(after).not_to_have_attribute("src", source, timeout=PATIENCE)
    assert colour_of(page, bundled_url, after) == "red"


def colour_of(page, url, picture) -> str:  # noqa: F811
    body = page.request.get(f"{url.rstrip('/')}{picture.get_attribute('src')}").body()
    (reading,) = readings(Detector.load(), [Image.open(io.BytesIO(body)).convert("RGB")])
    return reading["colour"]
