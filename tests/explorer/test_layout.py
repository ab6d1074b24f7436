"""How every page lies in a window, wide and on a phone: nothing is cut or left alone, numbers say what they
are."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from tests.explorer.conftest import served, stop
from tests.explorer.test_accessibility import PAGES, each_page
from tests.explorer.test_browser import chromium, page, pytestmark, sync_api  # noqa: F401

#: Every page, what shows that it is open, and clicks that fill it.
ALL = {**PAGES, "Systems": ("#systems-body table", [])}
#: Texts of the open page that are drawn outside of what clips them. What is made to scroll, ends in dots, or
#: is for who hears the page or shows how long a run takes, is left out.
CUT = """() => {
  const out = '.ub-table, .ub-film, .ub-swatches, .ub-ideas, .ub-chosen-card, .ub-legend, .tab-container, '
    + 'textarea, code, .sr-only, .ub-skip, [data-testid=status-tracker]';
  const visible = { visibilityProperty: true, opacityProperty: true };
  const found = [], seen = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (seen.nextNode()) {
    const node = seen.currentNode, own = node.parentElement;
    if (!node.data.trim() || own.closest(out) || !own.checkVisibility(visible)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    if (box.width === 0) continue;
    for (let each = own; each && each !== document.body; each = each.parentElement) {
      const style = getComputedStyle(each), clip = each.getBoundingClientRect();
      if (style.textOverflow === 'ellipsis' || style.webkitLineClamp !== 'none') break;
      if (style.overflowX !== 'visible' && (box.right > clip.right + 1 || box.left < clip.left - 1)
        || style.overflowY !== 'visible' && (box.bottom > clip.bottom + 1 || box.top < clip.top - 1)) {
        found.push(node.data.trim() + ' in ' + (each.id || each.className));
        break;
      }
    }
  }
  return found;
}"""
#: Choices of the open page whose text lies under their arrow.
COVERED = """() => [...document.querySelectorAll('input[role=combobox]')].filter((each) => {
  if (!each.checkVisibility()) return false;
  const style = getComputedStyle(each), pen = document.createElement('canvas').getContext('2d');
  pen.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
  const begin = each.getBoundingClientRect().left + parseFloat(style.paddingLeft);
  const end = begin + pen.measureText(each.value).width;
  const arrow = each.parentElement.querySelector('.dropdown-arrow').getBoundingClientRect();
  return each.value && end > arrow.left + arrow.width / 3;  // its picture is in the middle third
}).map((each) => `${each.ariaLabel}: ${each.value}`)"""
#: Lists with numbers whose heading does not say what the number is.
NAMELESS = """() => [...document.querySelectorAll('.ub-group')].filter((each) => each.checkVisibility()
  && each.querySelector('.ub-chip') && !each.querySelector('h3 small').textContent.trim())
  .map((each) => each.querySelector('h3').textContent)"""
#: Rows of the lists that are visible, as numbers of chips in each.
ROWS = """() => [...document.querySelectorAll('.ub-chips')].filter((each) => each.checkVisibility())
  .map((list) => {
    const tops = [...list.children].map((each) => Math.round(each.getBoundingClientRect().top));
    return [...new Set(tops)].map((top) => tops.filter((each) => each === top).length);
  })"""


@pytest.fixture(scope="module")
def whole_url(home, comparison):
    """Address of an explorer with every page."""
    process, said = served(home, "--diff", str(comparison))
    found = re.search(r"at (http\S+)", said)
    assert found is not None
    yield found[1]
    stop(process)


def laid_out(page, url: str):  # noqa: F811
    """Names of the pages, each open, filled and at rest when it comes."""
    for name in each_page(page, url, ALL):
        page.wait_for_timeout(300)  # pages are laid out again once they have come
        yield name


def pixels(locator) -> np.ndarray:
    """(height, width) brightness of what is seen of an element."""
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("L"), np.float64)


@pytest.mark.parametrize("page", [1440, 400], indirect=True)
def test_nothing_is_cut_covered_or_without_a_name(page, whole_url):  # noqa: F811
    found = []
    for name in laid_out(page, whole_url):
        for what, script in (("cut", CUT), ("under its arrow", COVERED), ("number of", NAMELESS)):
            found += [f"{name}: {what}: {each}" for each in page.evaluate(script)]
    assert found == []


def test_no_list_ends_in_a_row_of_one(page, whole_url):  # noqa: F811
    lone = []
    for name in laid_out(page, whole_url):
        lists = page.evaluate(ROWS)
        lone += [(name, rows) for rows in lists if len(rows) > 1 and rows[-1] == 1 and sum(rows) % 4 == 0]
    assert lone == []


@pytest.mark.parametrize("page", [1440, 400], indirect=True)
def test_the_foot_has_no_dot(page, url):  # noqa: F811
    page.goto(url)
    foot = page.locator("footer")
    foot.wait_for()
    said = foot.inner_text()
    assert "Settings" in said
    assert "\u00b7" not in said


@pytest.mark.parametrize("page", [400], indirect=True)
def test_a_phone_says_that_there_are_more_pages_and_more_of_a_table(page, url):  # noqa: F811
    page.goto(url)
    page.wait_for_selector("#explore-features .ub-chip")
    more = page.locator(".overflow-menu > button")
    assert more.evaluate("(each) => getComputedStyle(each, '::after').content") == '"more"'
    page.evaluate("window.unboxTab('Blocks')")
    table = page.locator("#blocks-body .ub-table").first
    table.wait_for()
    assert table.evaluate("(each) => each.scrollWidth > each.clientWidth + 20")
    rows = slice(-12, -6)  # under the last row's text
    there = pixels(table)[rows, -6:].mean()
    table.evaluate("(each) => { each.scrollLeft = each.scrollWidth; }")
    page.wait_for_timeout(200)
    end = pixels(table)[rows]
    assert there < end[:, -6:].mean() - 20, "no shadow where the table goes on"
    assert end[:, :6].mean() < end[:, -6:].mean() - 20, "none at the left once it is scrolled"


def test_pictures_stand_under_their_headings_and_beside_each_other(page, whole_url):  # noqa: F811
    def middle(selector: str) -> float:
        box = page.locator(selector).first.bounding_box()
        return box["x"] + box["width"] / 2

    for name in laid_out(page, whole_url):
        if name == "Paint":  # canvas and result begin at one height
            tops = [page.locator(each).bounding_box()["y"] for each in ("#paint-canvas", "#paint-result")]
            assert abs(tops[0] - tops[1]) < 2
        if name == "Plots":
            column = "#plots-result tr > :nth-child(3)"
            assert middle(f"{column} img") == pytest.approx(middle("#plots-result th:nth-child(3)"), abs=2)
        if name == "Systems":
            pair = page.locator("#systems-body .ub-both").first.locator("img")
            one, other = (pair.nth(i).bounding_box() for i in range(2))
            assert one["y"] == other["y"]
            assert other["x"] > one["x"]


def test_what_the_task_rings_is_ringed_all_round(page, url):  # noqa: F811
    page.goto(url)
    ring = page.locator("[role=tab].ub-ring")
    ring.wait_for()
    outside = ring.evaluate("""(each) => {
      const style = getComputedStyle(each);
      const out = parseFloat(style.outlineWidth) + parseFloat(style.outlineOffset);
      const box = each.getBoundingClientRect(), clip = each.closest('.tab-container').getBoundingClientRect();
      return Math.max(clip.top - (box.top - out), box.bottom + out - clip.bottom);
    }""")
    assert outside <= 0


def test_dark_is_dark_under_the_page_and_in_the_browsers_own_parts(page, url):  # noqa: F811
    page.goto(f"{url}?__theme=dark")
    page.wait_for_selector("#explore-features .ub-chip")
    colour, scheme = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).colorScheme]"
    )
    assert max(map(int, re.findall(r"\d+", colour)[:3])) < 40, colour
    assert scheme == "dark"


def test_a_map_says_what_its_colours_are(page, url):  # noqa: F811
    page.goto(url)
    page.wait_for_selector("#explore-features .ub-chip")
    page.evaluate("window.unboxTab('Map')")
    page.click("#map-make")
    legend = page.locator("#map-body .ub-legend li")
    legend.first.wait_for()
    assert legend.count() == page.locator("#map-body .ub-group").count()
    page.get_by_role("radio", name="density", exact=True).check()
    sync_api.expect(page.locator("#map-body .ub-legend")).to_contain_text("share of places")
    assert re.search(r"[\d.]+% +[\d.]+%", page.locator("#map-body .ub-shades").inner_text())


def test_filters_of_a_search_act_at_once_and_shares_are_in_percent(page, url):  # noqa: F811
    page.goto(url)
    page.wait_for_selector("#explore-features .ub-chip")
    page.evaluate("window.unboxTab('Search')")
    results = page.locator("#search-results .ub-card")
    results.first.wait_for()
    least = page.get_by_label("Fires in at least, % of places")
    least.fill("12.5")
    least.press("Enter")
    page.wait_for_url("**low=**")
    sync_api.expect(results.first).to_be_visible()
    shares = [float(each) for each in re.findall(r"([\d.]+)% of places", page.inner_text("#search-results"))]
    assert shares
    assert min(shares) >= 12.4  # written to one place
    page.goto(page.url)  # the link restores what was typed
    sync_api.expect(page.get_by_label("Fires in at least, % of places")).to_have_value("12.5")
    page.get_by_role("radio", name="meaning").check()
    page.wait_for_selector("text=By meaning: type a word")
