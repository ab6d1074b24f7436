"""What the package brings for the first visit: SAEs and atlas of the bundled model, whole, of its weights."""

import re
import shutil
import stat
from copy import copy
from dataclasses import replace

import numpy as np
import pytest

from unbox import load
from unbox.atlas import Filter
from unbox.edit import Edits
from unbox.experiments.feature_strengths import FeatureStrength
from unbox.explorer import open_session
from unbox.explorer.artifact_figure import artifact_figure
from unbox.explorer.feature_scale import feature_scale
from unbox.explorer.feature_summaries import seen_here
from unbox.explorer.interface import SHAPES
from unbox.explorer.moved_region import moved_edits
from unbox.explorer.pages import explore_page, feature_page
from unbox.explorer.palette import PaletteQuery, first_query, swatches_html
from unbox.explorer.shared_components import InitialState
from unbox.ground_truth.effects import readings
from unbox.mask import Mask
from unbox.shapes import Scene, prompts
from unbox.shapes.detector import Detector
from unbox.shapes.factors import TABLE
from unbox.site import DEFAULT_BLOCKS

#: Bytes that the package may spend on it.
MOST = 25_000_000


@pytest.fixture(scope="module")
def bundled():
    """The session of a first visit."""
    return open_session.open_session(load(open_session.SYSTEM))


def test_it_is_there_and_small():
    sizes = [path.stat().st_size for path in open_session.BUNDLED.rglob("*") if path.is_file()]
    assert (open_session.BUNDLED / "atlas" / "atlas.json").is_file()
    assert sum(sizes) <= MOST
    assert not list(open_session.BUNDLED.rglob("store"))


def test_it_is_of_the_weights_that_the_package_brings(bundled):
    weights = bundled.atlas.index["store"]["provenance"]["model"]["weights"]
    assert weights == bundled.model(open_session.SYSTEM).fingerprint["weights"]
    assert set(bundled.saes) == {sae.name for sae in bundled.atlas.saes} == set(DEFAULT_BLOCKS)


def test_the_features_have_labels_examples_and_meaning(bundled):
    best = bundled.atlas.search("", Filter(labelled=True), order="label score", limit=20)
    assert all(facts.score > 0.8 for facts in best)
    assert all(e.thumbnail is not None for e in bundled.atlas.examples(best[0].name, "top"))
    told = []
    for factor in ("colour", "shape"):
        for word, wordings in TABLE[factor].wordings.items():
            near = bundled.atlas.meaning(bundled.model(open_session.SYSTEM), word, limit=4)
            told += [any(one in each.facts.label for one in wordings) for each in near]
    assert np.mean(told) > 0.8  # 6 of 56 before likeness to any word was taken off
    for word, block in (("green", "up.0.1"), ("star", "up.0.0"), ("olive", "down.2.1")):
        found = bundled.atlas.search(word, Filter(labelled=True, block=block), order="label score", limit=1)
        assert word in found[0].label


def test_the_first_page_is_full(bundled):
    initial = InitialState.of(bundled, SHAPES[0])
    assert initial.recorded is not None
    assert initial.feature
    assert all(initial.recorded.strongest(name, None, 3) for name in bundled.saes)
    stage, features, _ = explore_page.show(
        bundled, initial.recorded, explore_page.View(chosen=initial.feature)
    )
    assert "ub-heat" in stage
    assert features.count("data-go") > 20
    assert "ub-histogram" in feature_page.body(bundled, initial.feature, 0)


def test_what_is_seen_here_is_what_the_caption_says(bundled):
    """Most of the shapes, colours and backgrounds that the first list's labels name are the scene's (of each
    factor one or two in six or eight are, by chance)."""
    factors = ("shape", "colour", "background")
    value_of = {
        word: value for factor in factors for value, words in TABLE[factor].wordings.items() for word in words
    }
    named: list[bool] = []
    for prompt in prompts(6, seed=5, full=True):
        recipe = replace(bundled.defaults(bundled.default), prompt=prompt.text, seed=3)
        labels = [chip.label for chip in seen_here(bundled, bundled.record(recipe))]
        scene = Scene.from_json(prompt.meta["scene"])
        said = {scene.factors(slot)[factor] for slot in range(len(scene.objects)) for factor in factors}
        for label in labels:
            values = {value_of[word] for word in re.findall(r"\w+", label) if word in value_of}
            named += [value in said for value in values]
    assert len(named) >= 20
    assert np.mean(named) > 0.6, named


@pytest.mark.slow
def test_the_first_task_ends_green_and_clean(bundled):
    """What the first task names, at the strength that Paint starts at, over the left half of the first page's
    picture."""
    first = InitialState.of(bundled, SHAPES[0]).recipe
    name = _swatches(bundled, first, "green", first_query(bundled).among)[0]
    edit = bundled.feature(name).add(
        feature_scale(bundled, name).start, unit="deviation", where=Mask.of((0.0, 0.2, 0.5, 0.8))
    )
    plain, image = bundled.generate([first, replace(first, edits=Edits((edit,)))])
    before, after = readings(Detector.load(), [plain, image])
    assert (before["colour"], after["colour"]) == ("red", "green")
    assert artifact_figure(bundled, image).note.startswith("no artifact")


def test_words_find_first_what_is_known_to_bring_them_about(bundled):
    first = bundled.defaults(bundled.default)
    plain = _swatches(replaced(bundled, strengths={}), first, "green")
    assert len(plain) > 2
    given = {plain[-1]: FeatureStrength(5.0, "colour", "green")}
    known = replaced(bundled, strengths=given)
    assert _swatches(known, first, "green") == [plain[-1], *plain[:-1]]
    bundled.record(first)  # an empty prompt: whatever fires in it
    assert _swatches(known, first, "green", "picture")[0] == plain[-1]
    assert plain[-1] not in _swatches(known, first, "red", "picture")


def replaced(session, **parts):
    """The session with other attributes."""
    other = copy(session)
    vars(other).update(parts)
    return other


def _swatches(session, recipe, word, among="all"):
    html = swatches_html(session, recipe, PaletteQuery(among, word))
    return re.findall(r'data-swatch="([^"]+)"', html)


def test_what_is_dragged_is_seen_where_it_is_let_go(bundled):
    """A red circle on the left, the left half dragged to the right: where the red is, beside random features
    pushed as far."""

    def share_on_the_right(image) -> float:
        pixels = np.asarray(image, np.float32)
        red = np.clip(pixels[..., 0] - pixels[..., 1:].max(-1), 0, None)
        return red[:, red.shape[1] // 2 :].sum() / max(red.sum(), 1.0)

    shares = []
    for seed in range(6):
        prompt = "a small solid red circle on the left on a gray background"
        recipe = replace(bundled.defaults(bundled.default), prompt=prompt, seed=seed)
        edits = moved_edits(bundled, bundled.record(recipe), Mask.of((0.0, 0.0, 0.5, 1.0)), 0.5, 0.0)
        moved = replace(recipe, edits=edits)
        pictures = bundled.generate([recipe, moved, bundled.random_control(moved)])
        shares.append([share_on_the_right(picture) for picture in pictures])
    before, after, random = np.median(shares, axis=0)
    assert before < 0.2, shares
    assert random < 0.5, shares
    assert after > 0.8, shares


def test_it_works_from_a_folder_that_nobody_may_write_to(tmp_path, monkeypatch):
    from unbox.atlas import set_label

    shutil.copytree(open_session.BUNDLED, tmp_path / "bundled")
    for path in [tmp_path / "bundled", *(tmp_path / "bundled").rglob("*")]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    monkeypatch.setattr(open_session, "BUNDLED", tmp_path / "bundled")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    session = open_session.open_session(load(open_session.SYSTEM))
    name = session.atlas.search(limit=1)[0].name
    set_label(session.atlas, name, "my word", "me")
    assert session.atlas.search("my word")[0].name == name
    assert session.atlas.database_path.is_relative_to(tmp_path / "cache")
    for path in [*(tmp_path / "bundled").rglob("*"), tmp_path / "bundled"]:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
