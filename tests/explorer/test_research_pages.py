"""The pages that researchers link to, in a browser: collections, the map of a dictionary, X/Y plots."""

import json
import re

import pytest

from tests.explorer.conftest import served, stop
from tests.explorer.test_browser import (  # noqa: F401
    chromium,
    make,
    page,
    picture,
    pytestmark,
    same,
    shoot,
    sync_api,
    tab,
    take,
)
from unbox.errors import UnboxError
from unbox.explorer.pages.plots_page import recipe_at


def test_a_collection_is_kept_exported_opened_and_shared(page, url, chromium, shoot, tmp_path):  # noqa: F811
    page.goto(f"{url}?view=feature&f=mid.0/3")
    page.wait_for_selector("#feature-body .ub-histogram")
    page.get_by_role("button", name="Collect", exact=True).click()
    page.wait_for_selector("[data-collected]:has-text('of 1')")
    page.click("#feature-after")
    page.wait_for_selector("#feature-body .ub-title:has-text('mid.0/4')")
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("s")
    page.wait_for_selector("[data-collected]:has-text('of 2')")
    page.evaluate("window.unboxTab('Collections')")
    cards = page.locator("#collections-features .ub-card")
    sync_api.expect(cards).to_have_count(2)
    page.wait_for_url("**c=**")
    shoot(page, "collections")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save JSON").click()
    saved = tmp_path / "features.json"
    download.value.save_as(saved)
    assert json.loads(saved.read_text())["features"] == ["mid.0/3", "mid.0/4"]
    link = page.url
    page.goto(url)  # kept in this browser
    page.wait_for_selector("#explore-make")
    page.evaluate("window.unboxTab('Collections')")
    sync_api.expect(cards).to_have_count(2)

    other = chromium.new_context().new_page()  # shared: a browser that keeps nothing
    other.goto(link)
    shared = other.locator("#collections-features .ub-card")
    sync_api.expect(shared).to_have_count(2)
    sync_api.expect(other.locator("#collections-features h2")).to_contain_text("opened from a link")
    other.get_by_role("button", name="Keep this collection in my browser").click()
    sync_api.expect(other.locator("#collections-features .ub-remove")).to_have_count(2)
    other.get_by_label("take mid.0/3 out").click()
    sync_api.expect(shared).to_have_count(1)
    other.locator("#collections-kept input[type=file]").set_input_files(saved)
    sync_api.expect(shared).to_have_count(2)
    (tmp_path / "bad.json").write_text('{"name": "x", "features": [3]}')
    other.locator("#collections-kept input[type=file]").set_input_files(tmp_path / "bad.json")
    other.wait_for_selector("text=should be")
    shared.first.click()
    other.wait_for_selector("#feature-body .ub-title:has-text('mid.0/3')")
    other.context.close()


def test_the_map_names_features_and_opens_them_by_mouse_and_keys(page, url, shoot):  # noqa: F811
    page.goto(url)
    tab(page, "Map")
    page.click("#map-make")
    sheet = page.locator("#map-body canvas")
    sheet.wait_for()
    near = page.locator("#map-body [data-near]")
    sheet.hover(position={"x": 300, "y": 200})
    sync_api.expect(near).to_contain_text("mid.0/")
    named = near.inner_text().split()[0]
    sheet.focus()
    page.keyboard.press("ArrowRight")
    sync_api.expect(near).not_to_contain_text(f"{named} ")
    shoot(page, "map")
    page.wait_for_url("**view=map**")
    link, name = page.url, near.inner_text().split()[0]
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#feature-body .ub-title:has-text('{name}')")
    page.goto("about:blank")
    page.goto(link)
    page.locator("#map-body canvas").wait_for()
    page.locator("#map-body .ub-chip").first.click()
    page.wait_for_selector("#feature-body .ub-histogram")


def test_a_plot_has_a_picture_for_each_pair_and_opens_them_in_paint(page, url, shoot):  # noqa: F811
    make(page, url)
    page.click("#explore-paint")
    page.wait_for_selector("#paint-swatches .ub-swatch")
    take(page, 0)
    page.click("#paint-add")
    page.wait_for_selector("#paint-layers .ub-layer")
    tab(page, "Plots")
    page.fill("#plots-x-values input, #plots-x-values textarea", "0, 50, 200")
    page.fill("#plots-y-values input, #plots-y-values textarea", "0-1")
    page.click("#plots-make")
    pictures = page.locator("#plots-result td img")
    sync_api.expect(pictures).to_have_count(6)
    changes = [float(text.split()[1]) for text in page.locator("#plots-result small").all_inner_texts()]
    assert changes[0] == changes[3] == 0  # strength 0 is no edit, under both seeds
    assert changes[0] < changes[1] < changes[2]
    sources = [each.get_attribute("src") for each in pictures.all()]
    assert len(set(sources)) == 6
    page.wait_for_url("**x_values=**")  # the tab has an address before the plot has its own
    shoot(page, "plots")
    link = page.url
    page.wait_for_timeout(
        6000
    )  # Paint makes the picture of its new layer meanwhile: the address stays the plot's
    assert page.url == link
    page.locator("#plots-result button").nth(2).click()
    page.wait_for_selector("#paint-layers .ub-layer")
    same(page, "#paint-result [alt=after]", sources[2])
    page.goto("about:blank")
    page.goto(link)
    values = page.locator("#plots-x-values input, #plots-x-values textarea")
    sync_api.expect(values).to_have_value("0, 50, 200")
    page.fill("#plots-y-values input, #plots-y-values textarea", "0-900")
    page.click("#plots-make")
    page.wait_for_selector("text=y_values")


def test_a_plot_whose_recipes_are_gone_says_so(recipe):
    assert recipe_at((recipe,), 0) == recipe
    for recipes, place in (((), 0), ((recipe,), 1), ((recipe,), None)):
        with pytest.raises(UnboxError, match="press Run"):
            recipe_at(recipes, place)


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("view=collections&c=AAAA", "should be whole"),
        ("view=map&sae=nope", "is unknown"),
        ("view=plots&x=seed&y=seed&x_values=0&y_values=1", "another than x"),
        ("view=plots&x=strength&y=seed&x_values=1e9&y_values=1", "x_values"),
    ],
)
def test_malformed_links_say_what_is_wrong(page, url, query, answer):  # noqa: F811
    page.goto(f"{url}?{query}")
    page.wait_for_selector(f"text={re.sub(chr(34), '', answer)}")
    tab(page, "Explore")
    page.wait_for_selector("#explore-make")


def test_the_page_of_systems_shows_what_differs_and_fits_a_phone(chromium, home, comparison, shoot):  # noqa: F811
    process, said = served(home, "--diff", str(comparison))
    try:
        found = chromium.new_page(viewport={"width": 400, "height": 900})
        found.goto(re.search(r"at (http\S+)", said)[1])
        found.wait_for_selector("#explore-make")
        found.evaluate("window.unboxTab('Systems')")
        sync_api.expect(found.locator("#systems-body details tbody tr")).to_have_count(5)
        sync_api.expect(found.locator("#systems-body details tbody")).to_contain_text("mid.0/2")
        pictures = found.locator("#systems-body img")
        pictures.first.scroll_into_view_if_needed()
        found.wait_for_function("document.querySelector('#systems-body img').naturalWidth === 16")
        assert pictures.count() >= 16
        assert found.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
        shoot(found, "systems")
        found.close()
    finally:
        stop(process)
