"""Mistakes on the pages: one line beside the field, which it describes, and nothing that covers the page."""

import re

import pytest

from tests.explorer.test_browser import (  # noqa: F401
    changed,
    chromium,
    make,
    page,
    picture,
    pytestmark,
    shoot,
    sync_api,
    tab,
)


def mistake(page, text: str):  # noqa: F811
    """The line that says so: the only one, of the field that is marked; nothing else says anything."""
    line = page.get_by_role("alert").filter(has_text=re.compile(text))
    line.wait_for()
    sync_api.expect(page.locator(".ub-error")).to_have_count(1)
    sync_api.expect(page.locator(".toast-body.error")).to_have_count(0)
    pills = page.locator("[data-testid=status-tracker] .error").locator("visible=true")
    sync_api.expect(pills).to_have_count(0)
    return line


def beside(line, field) -> None:
    """The field is marked and described by the line, which stands right under its row, of one or two lines of
    controls."""
    sync_api.expect(field).to_have_attribute("aria-invalid", "true")
    assert field.get_attribute("aria-describedby") == line.get_attribute("id")
    under, over = line.bounding_box(), field.bounding_box()
    assert 0 <= under["y"] - (over["y"] + over["height"]) < 180


def test_a_mistake_is_one_line_beside_its_field(page, url, shoot):  # noqa: F811
    make(page, url)
    seed = page.get_by_label("Seed", exact=True).locator("visible=true")
    shown = picture(page, "#explore-stage .ub-picture")
    seed.fill("-1")
    page.click("#explore-make")
    line = mistake(page, "seed")
    beside(line, seed)
    shoot(page, "mistake")
    assert picture(page, "#explore-stage .ub-picture") == shown
    seed.fill("3")  # it goes with the value that it is of
    sync_api.expect(page.locator(".ub-error")).to_have_count(0)
    sync_api.expect(seed).not_to_have_attribute("aria-invalid", "true")
    steps = page.get_by_label("Steps", exact=True).locator("visible=true")
    steps.fill("-4")
    page.click("#explore-make")
    beside(mistake(page, "minimum|Steps|steps"), steps)
    steps.fill("2")
    page.click("#explore-make")
    changed(page, "#explore-stage .ub-picture", shown)
    sync_api.expect(page.locator(".ub-error")).to_have_count(0)


@pytest.mark.parametrize("page", [400], indirect=True)
def test_fields_of_every_page_have_their_mistakes_beside_them(page, url):  # noqa: F811
    page.goto(f"{url}?view=feature&f=mid.0/3")
    page.wait_for_selector("#feature-body .ub-histogram")
    name = page.locator("#feature-name input, #feature-name textarea")
    name.fill("green")
    name.press("Enter")
    beside(mistake(page, "green"), name)
    page.goto(f"{url}?view=plots")
    page.wait_for_selector("#plots-make")
    values = page.locator("#plots-x-values input, #plots-x-values textarea")
    values.fill("1, many")
    page.click("#plots-make")
    beside(mistake(page, "many"), values)
    page.goto(f"{url}?view=paint")
    page.wait_for_selector("#paint-swatches .ub-swatch")
    feature = page.locator("#paint-feature input, #paint-feature textarea")
    feature.fill("nowhere/3")
    page.click("#paint-add")
    beside(mistake(page, "nowhere"), feature)


def test_a_mistake_without_a_field_stands_under_what_was_pressed(page, url, tmp_path):  # noqa: F811
    (tmp_path / "text.png").write_text("no picture")
    page.goto(url)
    tab(page, "Paint")
    page.set_input_files("#paint-drop input[accept='image/png']", tmp_path / "text.png")
    mistake(page, "not a PNG")
