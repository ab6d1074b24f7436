"""Bytes of answers at real size: pictures of 1024 pixels, four SAEs of 5,120 features on 64 x 64 places."""

import numpy as np
import pytest
from PIL import Image

from tests.edits.dictionaries import random_sae
from unbox.atlas import Facts
from unbox.atlas.dictionary_map import DictionaryMap
from unbox.edit import Edits
from unbox.explorer import feature_map
from unbox.explorer.canvas import canvas_html, result_html
from unbox.explorer.canvas_state import CanvasState, MadeImage
from unbox.explorer.image_recipe import Recipe
from unbox.explorer.layers import layers_html
from unbox.explorer.pages import explore_page
from unbox.explorer.picture_grid import GridCell, GridPlan, grid_html
from unbox.explorer.recorded_image import RecordedImage
from unbox.explorer.session import ExplorerSession

#: Places of the masks, levels of the codes: what compresses badly.
NOISE = np.random.default_rng(0)


def noise(side: int = 1024) -> Image.Image:
    return Image.fromarray(NOISE.integers(0, 256, (side, side, 3), np.uint8))


@pytest.fixture(scope="module")
def large(session) -> ExplorerSession:
    """The tiny model with four SAEs of 5,120 latents."""
    model = session.model("tiny")
    saes = {
        f"mid.0-{i}": random_sae("mid.0", model.block("mid.0").in_channels, 5120, 10, seed=i)
        for i in range(4)
    }
    return ExplorerSession(model, saes)


def test_the_answer_to_a_feature_that_is_chosen_is_at_most_150_kb(large):
    places = (4, 2, 64, 64, 10)
    values = {name: NOISE.random(places, np.float32) for name in large.saes}
    indices = {name: NOISE.integers(0, 40, places).astype(np.int32) for name in large.saes}
    recipe = Recipe("tiny", "a red cat", 7, 4, 5.0, 1024, 1024)
    recorded = RecordedImage(recipe, noise(), (0, 1, 2, 3), ("cond", "uncond"), values, indices)
    shown = explore_page.show(large, recorded, explore_page.View(chosen="mid.0-0/3"))
    assert "ub-heat" in shown[0]
    assert shown[1].count("data-go") == 4 * 8
    assert sum(len(html.encode()) for html in shown) <= 150_000


def test_a_map_of_5120_features_is_at_most_500_kb(large, monkeypatch):
    """With a label of 40 characters for each feature."""
    label = "forty letters of a label, or a few more"
    facts = Facts(0, "", "mid.0", 0, 0.01, 0.1, 1.0, 1.0, 4.0, 0, 3, 1, label, "", 0.9)
    monkeypatch.setattr(feature_map, "facts_of", lambda session, names: dict.fromkeys(names, facts))
    places = NOISE.random((5120, 2), np.float32), NOISE.integers(0, 16, 5120)
    monkeypatch.setitem(large.maps, "mid.0-0", DictionaryMap(*places))
    html = feature_map.map_html(large, "mid.0-0", "cluster")
    assert html.count("forty letters") >= 5120
    assert len(html.encode()) <= 500_000


def test_a_plot_of_144_pictures_is_at_most_150_kb_whatever_its_masks(large):
    """Its pictures are sent by address, and their recipes not at all."""
    masks = NOISE.random((8, 64, 64), np.float32)
    edits = Edits(tuple(large.feature(f"mid.0-0/{i}").add(1.0, where=mask) for i, mask in enumerate(masks)))
    recipe, image = Recipe("tiny", "a red cat", 7, 4, 5.0, 64, 64, edits=edits), noise(64)
    plan = GridPlan("strength", ", ".join(map(str, range(12))), "seed", "0-11")
    html = grid_html(plan, [GridCell(recipe, image, 1.0)] * 144)
    assert html.count("<img") == 144
    assert len(html.encode()) <= 150_000


def test_paints_answer_is_at_most_1_mb(large):
    masks = NOISE.random((8, 64, 64), np.float32)
    edits = Edits(tuple(large.feature(f"mid.0-0/{i}").add(1.0, where=mask) for i, mask in enumerate(masks)))
    recipe = Recipe("tiny", "a red cat", 7, 4, 5.0, 1024, 1024, edits=edits)
    state, made = CanvasState(recipe).choose(0), MadeImage(recipe, noise(), noise())
    answer = canvas_html(state, made), layers_html(large, state), result_html(made)
    assert sum(len(html.encode()) for html in answer) <= 1_000_000
