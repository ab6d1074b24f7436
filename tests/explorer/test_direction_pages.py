"""Steering vectors, probes, differences of means and factors have pages like features: evidence, what they
cause, use in Paint, links, collections; in the pages and in the API."""

import json
import re
import shutil
from dataclasses import replace
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from tests.explorer.conftest import served, stop
from tests.explorer.test_browser import (  # noqa: F401
    chromium,
    page,
    shoot,
    sync_api,
    tab,
)
from tests.explorer.test_browser import pytestmark as in_a_browser
from unbox.atlas import Atlas, AtlasPlan, build
from unbox.edit import Edits
from unbox.explorer import feature_summaries
from unbox.explorer.api import Endpoints
from unbox.explorer.feature_effects import measure_effects
from unbox.explorer.feature_scale import feature_scale
from unbox.explorer.open_session import open_session
from unbox.explorer.pages import feature_page

MEANS, PROBE, FACTORS = "mid.0-difference-of-means", "mid.0-probe", "mid.0-factors"


@pytest.fixture(scope="module")
def directed(home, tmp_path_factory):
    """The folder `home` with directions among its SAEs, and an atlas of all."""
    from activation_store import Store
    from unbox import load
    from unbox.edits.feature_factors import factor_directions, nmf_factors
    from unbox.edits.learned import linear_probe, mean_difference
    from unbox.sae import direction_set, load_saes

    folder = tmp_path_factory.mktemp("directed")
    shutil.copytree(home / "tiny", folder / "tiny")
    shutil.copytree(home / "saes", folder / "saes")
    store = Store.open(home / "store")
    rows = store["mid.0"]
    having = [i for i, sample in enumerate(store.samples) if "green" in sample.prompt]
    lacking = [i for i in range(len(store)) if i not in having]
    sides = [rows.filter(samples=some).sample(400) for some in (having, lacking)]
    every = rows.sample(4000)
    difference = {"green": mean_difference(*sides), "not green": -mean_difference(*sides)}
    direction_set("mid.0", difference, every, kind="difference of means").save(folder / "saes" / MEANS)
    direction_set("mid.0", {"green": linear_probe(*sides)}, every, kind="probe").save(folder / "saes" / PROBE)
    factors = nmf_factors(load_saes(home / "saes")["mid.0"], rows, 3)
    factor_directions(factors, every).save(folder / "saes" / FACTORS)
    plan = AtlasPlan(top=4, random=3, per_interval=2, decoys=2, caption_images=8, probes=6, places=500)
    build(store, load_saes(folder / "saes"), folder / "atlas", plan=plan,
          model=load(str(folder / "tiny")), progress=False)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def directions(directed):
    from unbox import load

    return open_session(load(str(directed / "tiny")), directed / "saes", directed / "atlas")


def test_a_direction_is_called_what_it_is_and_has_its_evidence(directions, directed):
    facts = Atlas.open(directed / "atlas").feature(f"{MEANS}/0")
    assert (facts.label, facts.author) == ("green", "difference of means")
    assert {each.name for each in directions.atlas.search("green")} >= {f"{MEANS}/0", f"{PROBE}/0"}
    html = feature_page.body(directions, f"{PROBE}/0", 0)
    assert re.search(r"green <small>mid\.0-probe/0 · probe of mid\.0", html)
    for part in ("Most active", "Random", "In this interval", "ub-histogram", "Over the steps"):
        assert part in html
    assert len(re.findall("<img", html)) > 7


def test_a_factor_names_the_features_that_it_is_made_of(directions):
    html = feature_page.body(directions, f"{FACTORS}/0", None)
    chips = re.findall(r'"feature": "(mid\.0/\d+)"', html.split("Made of")[1].split("</section>")[0])
    parts = feature_summaries.direction_named(directions, f"{FACTORS}/0").parts
    assert chips == sorted(parts, key=lambda name: -parts[name])
    assert len(chips) > 1


def test_1_on_its_slider_is_the_vector_as_it_was_given(directions):
    of = directions.saes[MEANS]
    scale = feature_scale(directions, f"{MEANS}/0")
    assert scale.start == scale.unit
    assert scale.unit * of.update_std == pytest.approx(of.meta["directions"][0]["length"])


def test_its_random_control_is_a_random_vector_and_its_effects_are_measured(directions, recipe):
    edit = directions.feature(f"{MEANS}/0").add(2.0, unit="deviation")
    control = directions.random_control(replace(recipe, edits=Edits((edit,))))
    vector = np.array(control.edits[0].direction)
    assert control.edits[0].feature == ()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-4)
    assert abs(vector @ directions.saes[MEANS].W_dec[0].numpy()) < 0.9
    found = measure_effects(directions, f"{MEANS}/0")
    assert len(found.rows[0][1]) == 4
    assert found.ablated


def test_the_api_says_what_it_is(directions):
    found = Endpoints(directions).feature(f"{FACTORS}/1")
    assert found["direction"]["kind"] == "factor"
    assert found["direction"]["parts"]
    assert "direction" not in Endpoints(directions).feature("mid.0/3")


def test_without_an_atlas_its_page_says_what_it_is(directions):
    bare = open_session(directions.model("tiny"), directions.folder)
    html = feature_page.body(bare, f"{FACTORS}/0", None)
    assert "factor 0" in html
    assert "build one" in html
    assert "Made of" in html


@pytest.fixture(scope="module")
def directed_url(directed):
    process, said = served(directed)
    yield re.search(r"at (http\S+)", said)[1]
    stop(process)


@in_a_browser[0]
@in_a_browser[1]
def test_a_direction_is_found_opened_painted_with_and_collected(page, directed_url, shoot):  # noqa: F811
    page.goto(directed_url)
    tab(page, "Search")
    page.fill("#search-words input, #search-words textarea", "green")
    page.press("#search-words input, #search-words textarea", "Enter")
    page.locator("#search-results .ub-card", has_text=f"{MEANS}/0").click()
    page.wait_for_selector(f"#feature-body .ub-title:has-text('{MEANS}/0')")
    sync_api.expect(page.locator("#feature-body .ub-title")).to_contain_text("difference of means of mid.0")
    page.wait_for_url(f"**f={MEANS}%2F0**")
    link = page.url
    assert page.locator("#feature-body .ub-interval").count() > 1
    assert page.locator("#feature-body .ub-first img").count() > 2
    page.locator("#feature-body .ub-interval").first.click()
    page.wait_for_selector("#feature-body h3:has-text('In this interval')")
    page.click("#feature-try")
    page.wait_for_selector("#feature-strip img")
    page.click("#feature-causes")
    page.wait_for_selector("#feature-effects table")
    page.get_by_role("button", name="Collect", exact=True).click()
    page.wait_for_selector("[data-collected]:has-text('of 1')")
    shoot(page, "direction")
    page.click("#feature-paint")
    page.wait_for_selector("#paint-add")
    assert page.input_value("#paint-feature input, #paint-feature textarea") == f"{MEANS}/0"
    page.click("#paint-add")
    slider = page.locator("#paint-layers .ub-layer input[type=range]")
    sync_api.expect(slider).to_have_value("1")  # as it was given
    page.click("#paint-make")
    page.wait_for_selector("#paint-result [alt=after]")
    page.wait_for_url("**view=paint&r=**")
    page.click("#paint-control")  # a random vector instead
    page.wait_for_selector("#paint-result p:has-text('random features instead')")
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector(f"#feature-body .ub-title:has-text('{MEANS}/0')")
    page.goto(f"{directed_url}?view=feature&f={FACTORS}/0")
    page.locator("#feature-body .ub-group", has_text="Made of").locator(".ub-chip").first.click()
    page.wait_for_selector("#feature-body .ub-title:has-text('mid.0/')")


@in_a_browser[0]
def test_the_api_paints_with_a_direction(directed_url, directions, recipe):
    edit = directions.feature(f"{PROBE}/0").add(3.0, unit="deviation")
    asked = replace(recipe, edits=Edits((edit,)))
    data = json.dumps({"data": [asked.to_json(), False]}).encode()
    base = directed_url.rstrip("/")
    post = Request(f"{base}/gradio_api/call/edit", data, {"Content-Type": "application/json"})
    event = json.load(urlopen(post))["event_id"]
    answer = urlopen(f"{base}/gradio_api/call/edit/{event}").read().decode()
    found = json.loads(answer.split("data: ")[1].split("\n")[0])[0]
    from io import BytesIO

    with urlopen(found["after"]) as file:  # a data URI
        after = np.asarray(Image.open(BytesIO(file.read())).convert("RGB"))
    (mine,) = directions.generate([asked])
    assert np.array_equal(after, np.asarray(mine))
