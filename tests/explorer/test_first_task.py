"""A first visit to the bundled model: what the page names, clicked, turns something green."""

import io
import re

import pytest
from PIL import Image

from tests.explorer.conftest import started, stop
from tests.explorer.test_browser import PATIENCE, chromium, page, pytestmark, shoot, sync_api  # noqa: F401
from unbox.ground_truth.effects import readings
from unbox.shapes.detector import Detector


@pytest.fixture(scope="module")
def bundled_url(tmp_path_factory):
    """Address of `unbox app` without further options."""
    process, said = started(["app", "--model", "shapes-turbo"], tmp_path_factory.mktemp("bundled"))
    found = re.search(r"at (http\S+)", said)
    assert found is not None
    yield found[1]
    stop(process)


def stroke(page) -> None:  # noqa: F811
    """One stroke that covers the left object of the first page's picture."""
    canvas = page.get_by_role("application", name=re.compile("^mask"))
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    places = [(x, y) for y in (0.36, 0.5, 0.64) for x in (0.12, 0.38)]
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=8)
    page.mouse.up()


def test_five_actions_that_the_page_names_turn_something_green(page, bundled_url, shoot):  # noqa: F811
    page.goto(bundled_url)
    task = page.get_by_role("region", name="a first task")
    task.wait_for()
    named = task.inner_text()
    word = re.search(r"turn something (\w+)", named)[1]
    assert word == "green"
    for name in ("Paint", "search features by words", "the picture to paint on", "Generate"):
        assert name in named
    actions = 0
    page.get_by_role("tab", name="Paint", exact=True).click()
    actions += 1
    page.get_by_role("searchbox", name="search features by words").fill(word)
    actions += 1
    swatch = page.get_by_role("button", name=re.compile(rf"^(?!like).*{word}"))
    others = page.locator("#paint-swatches .ub-swatch").filter(has_not_text=word)
    sync_api.expect(others).to_have_count(0)  # what is found is there
    swatch.first.click()
    actions += 1
    page.get_by_role("img", name="the picture to paint on").wait_for()
    stroke(page)
    actions += 1
    page.wait_for_selector("#paint-layers .ub-layer")
    after = page.get_by_role("img", name="after", exact=True)
    badge = page.get_by_role("status").filter(has_text="Generate makes it")
    after.or_(badge).first.wait_for()
    if badge.count() and badge.is_visible():
        page.get_by_role("button", name="Generate", exact=True).locator("visible=true").click()
        actions += 1
    after.wait_for(timeout=PATIENCE)
    assert actions <= 5
    address = after.get_attribute("src")
    body = page.request.get(f"{bundled_url.rstrip('/')}{address}").body()
    image = Image.open(io.BytesIO(body)).convert("RGB")
    (reading,) = readings(Detector.load(), [image])
    assert reading["colour"] == "green", reading
    sync_api.expect(task.get_by_role("status")).to_be_visible()
    note = page.inner_text("#paint-result")
    assert re.search(r"\bno artifact: strangeness .* to a second critic", note), note
    shoot(page, "first-task")


def test_the_first_list_is_of_good_labels_with_units(page, bundled_url):  # noqa: F811
    page.goto(bundled_url)
    group = page.locator("#explore-features .ub-group").first
    group.wait_for()
    assert group.locator("h3").inner_text().startswith("Seen here")
    chips = group.locator(".ub-chip")
    assert chips.count() >= 4
    assert group.locator(".ub-weak").count() == 0
    assert group.locator("i:has-text('no label')").count() == 0
    found = [
        each.partition(" ")[2] for each in chips.evaluate_all("all => all.map((each) => each.ariaLabel)")
    ]
    assert len(set(found)) == len(found)  # each label once
    assert any(re.search(r"\b(red|crimson|heart|yellow|star|teal|striped|dotted)\b", text) for text in found)
    for title in chips.evaluate_all("all => all.map((each) => each.title)"):
        assert re.search(r": largest activation in the picture; the bar is its share", title), title
    assert page.locator("#explore-features .ub-group h3 small").count() > 1  # units, in words
