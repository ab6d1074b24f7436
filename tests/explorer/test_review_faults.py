"""The faults that a review of the explorer found, H (wrong figures, lost work) and M (what most people meet
first): where each is tested from end to end, and the tests of those that are tested nowhere else."""

import ast
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.explorer.test_browser import (  # noqa: F401
    changed,
    chromium,
    labels,
    make,
    page,
    paint,
    picture,
    shoot,
    strength,
    sync_api,
    tab,
    take,
)
from tests.explorer.test_browser import pytestmark as in_a_browser
from unbox.edit import Edits
from unbox.explorer.canvas_state import mask_levels
from unbox.models.png_record import read_png

#: Fault -> what is tested from end to end: tests of this folder, `file::test`.
TESTED = {
    "H1 edits made during a run stay": ["test_browser::test_an_edit_that_is_added_during_a_run_stays"],
    "H2 figures of several masks, and of an edit everywhere": [
        "test_review_faults::test_figures_are_of_the_union_of_the_masks_that_are_on",
        "test_session::test_changes_are_told_of_the_union_of_masks_and_of_each"],
    "H3 intervals have one name": ["test_browser::test_features_have_pages_links_and_keys"],
    "H4 the order stays": ["test_browser::test_the_order_of_features_stays_for_the_next_picture"],
    "H5 noise leads no comparison": [
        "test_review_faults::test_a_comparison_shows_what_was_edited_first_and_no_noise",
        "test_session::test_changes_of_a_hundredth_lead_no_comparison"],
    "H6 copies are of the picture that is shown": [
        "test_browser::test_painting_changes_the_picture_and_a_png_restores_it",
        "test_copies::test_json_the_png_and_the_link", "test_copies::test_python",
        "test_copies::test_the_command_line", "test_copies::test_the_experiment_has_each_edit_as_a_row"],
    "H7 a short recipe has its system's settings": [
        "test_review_faults::test_a_short_recipe_is_of_the_systems_own_size_over_http",
        "test_session::test_a_short_recipe_has_its_systems_own_settings"],
    "H8 a comparison's link shows what its controls say": ["test_browser::test_compare_and_blocks"],
    "M1 contrast": ["test_accessibility::test_no_page_has_a_serious_finding"],
    "M2 what is chosen is in view": ["test_browser::test_the_picture_and_what_is_chosen_stay_in_view"],
    "M3 features by words in Paint": [
        "test_browser::test_the_palette_is_searched_by_words_and_keeps_what_is_liked",
        "test_browser::test_swatches_are_brushes_and_layers_have_one_history"],
    "M4 a search finds what comes nearest": [
        "test_review_faults::test_a_search_that_finds_nothing_says_what_comes_nearest"],
    "M5 meaning names words that nothing knows": [
        "test_browser::test_search_finds_by_words_meaning_and_key"],
    "M6 a mistake is one line": ["test_mistakes::test_a_mistake_is_one_line_beside_its_field"],
    "M7 Back, addresses, titles": [
        "test_browser::test_back_goes_from_a_feature_to_the_one_before_and_to_the_picture",
        "test_browser::test_back_to_a_picture_at_hand_runs_nothing_and_fetches_nothing"],
    "M8 one history": ["test_browser::test_swatches_are_brushes_and_layers_have_one_history"],
    "M9 a PNG shows its picture": ["test_browser::test_painting_changes_the_picture_and_a_png_restores_it"],
    "M10 a PNG is dropped anywhere": [
        "test_browser::test_painting_changes_the_picture_and_a_png_restores_it"],
    "M11 a relative opens at its top": ["test_browser::test_a_relative_opens_at_its_top"],
    "M12 progress covers the result alone": [
        "test_review_faults::test_a_runs_progress_covers_the_result_alone_and_painting_goes_on"],
    "M13 several random draws": ["test_review_faults::test_five_draws_have_their_range_and_others_are_drawn"],
    "M14 experiments keep masks": ["test_copies::test_the_experiment_has_each_edit_as_a_row"],
    "M15 a feature stays, and is let go": ["test_browser::test_explore_shows_what_fires_and_where"],
    "M16 what fires here follows the step": ["test_browser::test_explore_shows_what_fires_and_where"],
    "M17 the first list tells something": [
        "test_first_task::test_the_first_list_is_of_good_labels_with_units"],
    "M18 the feature page opens on its evidence": [
        "test_review_faults::test_a_features_page_opens_on_its_evidence"],
    "M19 small questions are answered in a crowd": [
        "test_burst::test_all_questions_are_answered_and_runs_that_cannot_wait_are_told_when",
        "test_served::test_in_a_crowd_every_question_is_answered_and_runs_are_made_or_told_when"
        "_to_try_again"],
}  # fmt: skip


def test_every_fault_has_a_test_that_is_there():
    names = [fault.split()[0] for fault in TESTED]
    assert names == [*(f"H{i}" for i in range(1, 9)), *(f"M{i}" for i in range(1, 20))]
    there = {}
    for path in Path(__file__).parent.glob("test_*.py"):
        tree = ast.parse(path.read_text())
        there[path.stem] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for fault, tests in TESTED.items():
        assert tests, fault
        for test in tests:
            file, name = test.split("::")
            assert name in there[file], f"{fault}: {test} is not there"


def browser(test):
    for mark in in_a_browser:
        test = mark(test)
    return test


def fetched(page, url: str, selector: str) -> np.ndarray:  # noqa: F811
    """The pixels of a picture that a page shows."""
    body = page.request.get(url.rstrip("/") + picture(page, selector)).body()
    return np.asarray(Image.open(io.BytesIO(body)).convert("RGB"), np.float64)


def painting(page, url: str) -> None:  # noqa: F811
    """Paint, with the picture of Explore."""
    make(page, url)
    page.click("#explore-paint")
    page.wait_for_selector("#paint-swatches .ub-swatch")


def generated(page) -> None:  # noqa: F811
    """Generate, and wait until what is shown is what is wanted."""
    page.click("#paint-make")
    page.wait_for_selector("#paint-result [alt=after]")
    sync_api.expect(page.locator("#paint-stale .ub-stale")).to_have_count(0)


@browser
def test_figures_are_of_the_union_of_the_masks_that_are_on(page, url, tmp_path):  # noqa: F811
    painting(page, url)
    for place, height in ((0, 0.1), (1, 0.7)):
        take(page, place)
        paint(page, height)
        page.wait_for_selector(f"#paint-layers .ub-layer >> nth={place}")
        strength(page, place, "300")
    generated(page)
    notes = page.locator("#paint-result p")
    sync_api.expect(notes.first).to_contain_text("inside the masks")
    told = [float(each) for each in re.findall(r"\d+\.\d", notes.first.inner_text())]
    each = [text for text in notes.all_inner_texts() if text.endswith("inside its mask")]
    saved = page.locator("#paint-result .ub-save").get_attribute("href")
    (tmp_path / "saved.png").write_bytes(page.request.get(url.rstrip("/") + saved).body())
    edits = Edits.from_json(read_png(tmp_path / "saved.png")["edits"])
    change = np.abs(fetched(page, url, "#paint-result [alt=after]")
                    - fetched(page, url, "#paint-result [alt=before]")).mean(2)  # fmt: skip
    masks = [mask_levels(edit.where, *change.shape) for edit in edits]
    union = np.maximum(*masks)
    assert told[0] == pytest.approx((change * union).sum() / union.sum(), abs=0.5)
    assert told[1] == pytest.approx((change * (1 - union)).sum() / (1 - union).sum(), abs=0.5)
    for text, mask in zip(each, masks, strict=True):
        own = float(re.search(r": (\d+\.\d) inside its mask", text)[1])
        assert own == pytest.approx((change * mask).sum() / mask.sum(), abs=0.5)
    page.locator("#paint-layers .ub-eye").nth(1).click()  # of the masks that are on
    page.wait_for_selector("#paint-layers .ub-off")
    generated(page)
    sync_api.expect(notes.first).to_contain_text("inside the mask,")
    take(page, 2)
    page.click("#paint-add")  # everywhere: there is no outside
    page.wait_for_selector("#paint-layers .ub-layer >> nth=2")
    generated(page)
    sync_api.expect(notes.first).to_contain_text(re.compile(r"^mean change \d+\.\d \(of 255\)$"))


@browser
def test_a_comparison_shows_what_was_edited_first_and_no_noise(page, url):  # noqa: F811
    painting(page, url)
    name = take(page, 0)
    page.click("#paint-add")
    page.wait_for_selector("#paint-layers .ub-layer")
    strength(page, 0, "300")
    page.click("#paint-keep")
    page.wait_for_selector("text=Kept")
    tab(page, "Compare")
    page.click("#compare-right input")
    page.get_by_role("option", name="edits kept in Paint").click()
    page.click("#compare-make")
    edited = page.locator("#compare-result .ub-group:has-text('edited on the right')")
    chips = edited.locator(".ub-chip")
    sync_api.expect(chips).to_have_count(1)
    assert chips.get_attribute("aria-label").split()[0] == name
    first = page.locator("#compare-result .ub-group h3").all_inner_texts()
    assert [title.startswith("edited on the") for title in first] == sorted(
        (title.startswith("edited on the") for title in first), reverse=True
    )
    differing = page.locator("#compare-result .ub-group:has-text('more on the') small")
    amounts = [float(text.split("·")[1].split()[0]) for text in differing.all_inner_texts() if "·" in text]
    assert amounts
    assert min(amounts) > 1e-3  # 0.00013 led the list before


@pytest.mark.slow
def test_a_short_recipe_is_of_the_systems_own_size_over_http(url):
    from urllib.request import Request, urlopen

    short = {"system": "tiny", "prompt": "a red cat", "seed": 0}
    data = json.dumps({"data": [short, False]}).encode()
    base = f"{url.rstrip('/')}/gradio_api/call/edit"
    event = json.load(urlopen(Request(base, data, {"Content-Type": "application/json"})))["event_id"]
    answer = urlopen(f"{base}/{event}").read().decode()
    found = json.loads(answer.split("data: ")[1].split("\n")[0])[0]
    assert (found["recipe"]["height"], found["recipe"]["width"], found["recipe"]["steps"]) == (64, 64, 2)
    with urlopen(found["after"]) as file:  # a data URI
        assert Image.open(io.BytesIO(file.read())).size == (64, 64)


@browser
def test_a_search_that_finds_nothing_says_what_comes_nearest(page, url):  # noqa: F811
    page.goto(f"{url}?view=search&q=red")
    page.wait_for_selector("#search-results .ub-card:has-text('mid.0/3')")
    notes = {"redd": "'redd' is not known here", "a red xyzzy": "'xyzzy'", "xyzzy": "Words that can be found"}
    for words, note in notes.items():
        page.fill("#search-words textarea, #search-words input", words)
        page.click("#search-find")
        page.wait_for_selector(f'#search-results [role=status]:has-text("{note}")')
        count = page.locator("#search-results .ub-card").count()
        assert (count == 0) == (words == "xyzzy")


@browser
def test_a_runs_progress_covers_the_result_alone_and_painting_goes_on(page, url):  # noqa: F811
    painting(page, url)
    take(page, 0)
    page.click("#paint-add")
    page.wait_for_selector("#paint-layers .ub-layer")
    page.get_by_label("Steps", exact=True).locator("visible=true").first.fill("80")
    page.click("#paint-make")
    page.locator("#paint-result").get_by_text("sampling").wait_for()
    covered = """() => [...document.querySelectorAll('[data-testid=status-tracker]')]
      .filter((each) => each.checkVisibility({opacityProperty: true, visibilityProperty: true})
        && each.getBoundingClientRect().height > 0 && !each.classList.contains('hide'))
      .map((each) => each.closest('[id^=paint-], [id^=explore-]')?.id)"""
    assert set(page.evaluate(covered)) == {"paint-result"}
    on_top = """() => { const canvas = document.querySelector('#paint-canvas canvas');
      canvas.scrollIntoView({block: 'center'});
      const box = canvas.getBoundingClientRect();
      const found = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
      return found.tagName + ' ' + getComputedStyle(document.querySelector('#paint-canvas')).opacity; }"""
    assert page.evaluate(on_top) == "CANVAS 1"
    take(page, 1)
    paint(page)  # while it runs
    page.wait_for_selector("#paint-layers .ub-layer >> nth=1")
    assert page.locator("#paint-result").get_by_text("sampling").is_visible()
    page.wait_for_selector("#paint-result .ub-compare")
    assert len(labels(page)) == 2


@browser
def test_five_draws_have_their_range_and_others_are_drawn(page, url):  # noqa: F811
    painting(page, url)
    take(page, 0)
    paint(page)
    page.wait_for_selector("#paint-layers .ub-layer")
    strength(page, 0, "300")
    generated(page)
    page.click("#paint-draws input")
    page.get_by_role("option", name="5", exact=True).click()
    page.click("#paint-control")
    draws = page.locator("#paint-result .ub-draws figcaption")
    sync_api.expect(draws).to_have_text([f"draw {i}" for i in range(5)])
    assert re.search(r"\d+\.\d .*\d+\.\d.*n = 5|5 draws", page.inner_text("#paint-result"))
    page.click("#paint-control")
    sync_api.expect(draws).to_have_text([f"draw {i}" for i in range(5, 10)])


@browser
@pytest.mark.parametrize("page", [1440, 400], indirect=True)
def test_a_features_page_opens_on_its_evidence(page, url, shoot):  # noqa: F811
    page.goto(f"{url}?view=feature&f=mid.0/3")
    page.wait_for_selector("#feature-body .ub-histogram")
    tops = """() => Object.fromEntries([['title', '#feature-body .ub-title'],
      ['score', '#feature-body .ub-score'], ['histogram', '#feature-body .ub-histogram'],
      ['top', '#feature-body .ub-gallery'], ['prompt', '#feature-prompt'], ['edit', '#feature-edit'],
      ['bar', '#feature-name']].map(([name, of]) =>
        [name, document.querySelector(of).getBoundingClientRect().top]))"""
    at = page.evaluate(tops)
    assert at["bar"] < at["title"] < at["score"] < min(at["histogram"], at["top"])
    assert max(at["histogram"], at["top"]) < at["prompt"] < at["edit"]
    window = page.evaluate("innerHeight")
    assert at["histogram"] < window
    if page.viewport_size["width"] > 1000:
        assert at["title"] - at["bar"] < 120  # one row of controls above it
        assert at["top"] < window
    assert not page.locator("#feature-author").is_visible()  # asked for where a label is given
    page.get_by_role("button", name="Edit the label").click()
    page.locator("#feature-author").wait_for()
    shoot(page, f"feature-first-{page.viewport_size['width']}")
