"""Every page by axe-core, light and dark, wide and on a phone: no finding that is serious or worse."""

import pytest

from tests.explorer.test_browser import chromium, page, pytestmark, sync_api  # noqa: F401

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")

#: Each page, what shows that it is open, and clicks that fill it, with what they bring.
PAGES = {
    "Explore": ("#explore-features .ub-chip",
                [("#explore-features .ub-chip >> nth=0", "#explore-stage .ub-heat")]),
    "Feature": ("#feature-body .ub-histogram", [("#feature-try", "#feature-strip img")]),
    "Search": ("#search-results .ub-card", []),
    "Paint": ("#paint-swatches .ub-swatch",
              [("#paint-swatches .ub-swatch >> nth=0", "#paint-swatches .ub-chosen"),
               ("#paint-add", "#paint-layers .ub-layer"), ("#paint-make", "#paint-result [alt=after]")]),
    "Compare": ("#compare-make", [("#compare-make", "#compare-result img")]),
    "Plots": ("#plots-make", [("#plots-make", "#plots-result img")]),
    "Map": ("#map-make", [("#map-make", "#map-body canvas")]),
    "Collections": ("#collections-kept select", []),
    "Blocks": ("#blocks-body table", []),
}  # fmt: skip


def each_page(page, url: str, pages=PAGES):  # noqa: F811
    """Open and fill pages one after another; yields their names."""
    page.goto(url)
    page.wait_for_selector("#explore-features .ub-chip")
    for name, (ready, clicks) in pages.items():
        page.evaluate("(name) => window.unboxTab(name)", name)
        page.locator(ready).first.wait_for(state="attached")
        for button, brings in clicks:
            page.click(button)
            page.locator(brings).first.wait_for(state="attached")
        yield name


def serious(page, name: str) -> list[tuple[str, str, str]]:  # noqa: F811
    """Findings that are serious or worse, of a page at rest: bars of progress come and go."""
    for _ in range(4):
        page.wait_for_timeout(500)
        result = axe.Axe().run(page, options={"resultTypes": ["violations"]})
        found = [
            (name, each["id"], each["nodes"][0]["html"][:200])
            for each in result.response["violations"]
            if each["impact"] in ("serious", "critical")
        ]
        if not found:
            break
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", [1440, 400], indirect=True)
def test_no_page_has_a_serious_finding(page, url, theme):  # noqa: F811
    found = []
    for name in each_page(page, f"{url}?__theme={theme}"):
        found += serious(page, name)
    assert found == []


def test_the_first_tab_leads_past_the_head_to_the_page(page, url):  # noqa: F811
    page.goto(url)
    page.wait_for_selector("#explore-features .ub-chip")
    page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.textContent")
    assert "Skip to the page" in focused
    page.keyboard.press("Enter")
    inside = page.evaluate("document.activeElement.closest('[role=tabpanel]') !== null")
    assert inside


def test_a_place_and_a_mask_are_reached_by_keys(page, url):  # noqa: F811
    page.goto(url)
    page.wait_for_selector("#explore-stage .ub-stage")
    page.locator("#explore-stage [data-place]").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("#explore-place .ub-chip, #explore-place .ub-none")
    page.click("#explore-paint")
    page.wait_for_selector("#paint-swatches .ub-swatch")
    page.locator("#paint-swatches .ub-swatch").first.click()
    page.wait_for_selector("#paint-swatches .ub-swatch.ub-chosen")
    page.locator("#paint-canvas canvas").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")  # a dab of the brush
    page.wait_for_selector("#paint-layers .ub-mask")
    sync_api.expect(page.locator("#paint-layers .ub-layer")).to_have_count(1)
