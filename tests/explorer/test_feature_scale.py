"""At which strength Paint takes a feature: calibrated, else by its own largest activation."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from unbox.edit import Edits, Feature
from unbox.experiments.critics import critics
from unbox.experiments.feature_strengths import FeatureStrengths, StrengthTrials, target_of
from unbox.explorer.artifact_figure import artifact_figure
from unbox.explorer.canvas_state import CanvasState
from unbox.explorer.feature_scale import feature_scale
from unbox.explorer.layers import layers_html
from unbox.explorer.session import ExplorerSession
from unbox.prompt import Prompt


def test_three_times_its_own_largest_activation_where_nothing_is_calibrated(session):
    sae = session.saes["mid.0"]
    row = sae.W_dec[3].detach().numpy()
    largest = float(sae.stats.max[3]) * np.sqrt((row**2).sum()) / sae.update_std
    found = feature_scale(session, "mid.0/3")
    assert found.start == pytest.approx(min(max(3 * largest, 4.0), 6.0), rel=0.05)
    assert found.unit is None
    stronger = replace(sae, stats=replace(sae.stats, max=sae.stats.max * 5 / 3 / largest))
    wide = ExplorerSession(session.model("tiny"), {"mid.0": stronger})
    assert feature_scale(wide, "mid.0/3").start == pytest.approx(5.0, rel=0.05)
    assert feature_scale(session, "nowhere/3").start == 4.0


@pytest.mark.parametrize(("start", "most"), [(None, 1.0), (7.5, 2.0)])
def test_a_calibrated_strength_is_1_on_its_slider_which_may_start_beyond(session, recipe, start, most):
    given = {"mid.0/3": {"strength": 5.0, "factor": "colour", "value": "red"}}
    if start:
        given["mid.0/3"]["start"] = start
    calibrated = ExplorerSession(
        session.model("tiny"), session.saes, session.atlas, strengths=FeatureStrengths(0.5, given)
    )
    assert feature_scale(calibrated, "mid.0/3").start == (start or 5.0)
    assert feature_scale(calibrated, "mid.0/3").unit == 5.0
    edit = session.feature("mid.0/3").add(2.5, unit="deviation")
    html = layers_html(calibrated, CanvasState(replace(recipe, edits=Edits((edit,)))))
    assert f'data-unit="5.0" min="0" max="{most:g}"' in html
    assert 'value="0.5"' in html
    assert "+2.5 deviations" in html


@pytest.mark.parametrize("by_hand", [False, True])
def test_what_was_set_by_hand_is_not_called_calibrated(session, by_hand):
    given = {"mid.0/3": {"strength": 5.0, "factor": "colour", "value": "red", "by_hand": by_hand}}
    known = ExplorerSession(session.model("tiny"), session.saes, strengths=FeatureStrengths(0.5, given))
    assert feature_scale(known, "mid.0/3").origin.startswith("set by hand" if by_hand else "calibrated")


def test_a_label_names_a_factor_and_a_value():
    shapes = critics()["shapes"]
    assert target_of("emerald, green", shapes) == ("colour", "green")
    assert target_of("pentagram, star", shapes) == ("shape", "star")
    assert target_of("nothing known", shapes) is None


def test_the_strength_that_is_calibrated_is_the_smallest_at_which_the_value_is_read():
    """A world of one pixel's brightness: adding v deviations brightens by v."""

    def bright(pairs):
        means = [[float(np.asarray(each).mean() > 100) for each in (p.after, p.before)] for p in pairs]
        return [{"success": after, "had": before} for after, before in means]

    world = replace(
        critics()["shapes"],
        prompts=lambda count: [Prompt(str(i)) for i in range(count)],
        metrics={"bright": bright},
        strangeness=lambda images: np.array([float(np.asarray(each).mean() > 200) for each in images]),
    )

    def draw(prompts, seeds, edits):
        value = 0.0 if edits is None else edits[0].value
        return [Image.new("L", (2, 2), int(min(20 + 20 * value, 255))) for _ in prompts]

    trials, target = StrengthTrials(draw, world), ("brightness", "bright")
    found = trials.calibrated(Feature("mid.0", 1), target)
    assert found.reached
    assert found.strength == pytest.approx(4.05, abs=0.15)  # 20 + 20 v > 100
    assert trials.start(Feature("mid.0", 1), target, found) == found.strength  # no more effect beyond


@pytest.mark.parametrize(("factor", "clean"), [(1.25, 9.0), (1.5, 6.2)])
def test_the_strength_to_begin_with_has_most_effect_and_few_artifacts(factor, clean):
    """A world in which more is better until it is an artifact, from `clean` deviations on."""
    shapes = critics()["shapes"]

    def grown(pairs):
        return [{"success": float(np.asarray(p.after)[0, 0] > 40 + 20 * (i % 5)), "had": 0.0}
                for i, p in enumerate(pairs)]  # fmt: skip

    def spoilt(images):
        return np.array([float(np.asarray(each)[0, 0] > 20 + 20 * clean) for each in images])

    world = replace(shapes, prompts=lambda count: [Prompt(str(i)) for i in range(count)],
                    metrics={"grown": grown}, strangeness=spoilt)  # fmt: skip

    def draw(prompts, seeds, edits):
        value = 0.0 if edits is None else edits[0].value
        return [Image.new("L", (2, 2), int(min(20 + 20 * value, 255))) for _ in prompts]

    trials, feature, target = StrengthTrials(draw, world), Feature("mid.0", 1), ("size", "grown")
    found = trials.calibrated(feature, target)
    assert found.reached
    start = trials.start(feature, target, found)
    assert found.strength < start < clean
    effects = [
        float(np.mean([20 + 20 * v > 40 + 20 * (i % 5) for i in range(24)])) for v in (found.strength, start)
    ]
    assert effects[1] > effects[0]


def test_a_picture_is_judged_by_what_unedited_ones_are(session, monkeypatch):
    shapes = critics()["shapes"]
    judged = ExplorerSession(session.model("tiny"), strengths=FeatureStrengths(0.5))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    assert artifact_figure(judged, picture) is None  # no critic knows the tiny model
    monkeypatch.setitem(vars(judged), "critic", shapes)
    found = artifact_figure(judged, picture)
    assert found.strangeness == pytest.approx(float(shapes.strangeness([picture])[0]))
    assert found.note.startswith("an artifact" if found.strangeness > 0.5 else "no artifact")
