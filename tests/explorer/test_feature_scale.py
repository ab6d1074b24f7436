"""At which strength Paint takes a feature: calibrated, else by its own largest activation."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from unbox.edit import Edits, Feature
from unbox.experiments.critics import critics
from unbox.experiments.feature_strengths import (
    STRENGTHS,
    FeatureStrengths,
    StrengthTrials,
    read_strengths,
    start_of,
    write_strengths,
)
from unbox.explorer.artifact_figure import artifact_figure
from unbox.explorer.canvas_state import CanvasState
from unbox.explorer.feature_scale import feature_scale
from unbox.explorer.layers import layers_html
from unbox.explorer.session import ExplorerSession
from unbox.mask import Mask
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


def test_what_it_does_in_other_pictures_is_said(session):
    row = {"strength": 7.5, "pictures": 24, "read": 0.875, "artifacts": 0.0}
    given = {"strength": 5.0, "start": 7.5, "factor": "colour", "value": "red", "held_out": [row]}
    known = ExplorerSession(
        session.model("tiny"), session.saes, strengths=FeatureStrengths(0.5, {"mid.0/3": given})
    )
    origin = feature_scale(known, "mid.0/3").origin
    assert origin == "calibrated: colour red is read from 1 on; where it starts in 21 of 24 other pictures"


def steered(read, strange):
    """A world of one pixel, whose brightness is twenty times what is added: `read` of (strength, picture)
    says whether a value is there, `strange` of the strength whether it is an artifact."""

    def level(image) -> float:
        return float(np.asarray(image)[0, 0]) / 20

    def found(pairs):
        return [{"success": float(read(level(p.after), int(p.prompt))), "had": 0.0} for p in pairs]

    world = replace(
        critics()["shapes"],
        prompts=lambda count, seed: [Prompt(str(100 * seed + i)) for i in range(count)],
        metrics={"found": found},
        strangeness=lambda images: np.array([float(strange(level(each))) for each in images]),
    )

    def draw(prompts, seeds, edits):
        values = [0.0 if edits is None else edits[i][0].value for i in range(len(prompts))]
        return [Image.new("F", (1, 1), 20 * value) for value in values]

    return draw, world


FEATURE, TARGET = Feature("mid.0", 1), ("size", "grown")


def test_the_strength_that_is_calibrated_is_the_smallest_at_which_the_value_is_read():
    trials = StrengthTrials(*steered(lambda v, _: v > 4.5, lambda v: v > 10))
    found = trials.calibrated(FEATURE, TARGET)
    assert found.reached
    assert found.strength == min(each for each in STRENGTHS if each > 4.5) == start_of(found)
    assert found.tried[-1].strength == found.strength  # where all pictures have it, no more is tried
    never = StrengthTrials(*steered(lambda v, _: False, lambda v: v > 10)).calibrated(FEATURE, TARGET)
    assert not never.reached
    assert len(never.tried) == len(STRENGTHS)


def test_artifacts_halfway_to_another_value_do_not_end_the_search():
    trials = StrengthTrials(*steered(lambda v, _: v > 5, lambda v: 1 < v < 5))
    found = trials.calibrated(FEATURE, TARGET)
    assert found.reached
    assert found.strength == min(each for each in STRENGTHS if each > 5)
    assert [each.artifacts for each in found.tried] == [float(each.strength < 5) for each in found.tried]


@pytest.mark.parametrize(("clean", "start"), [(9.0, 8.0), (6.2, 5.66)])
def test_the_strength_to_begin_with_has_most_effect_and_few_artifacts(clean, start):
    """A world in which more is better until it is an artifact, from `clean` deviations on."""
    trials = StrengthTrials(*steered(lambda v, i: v > 1.5 * (i % 5), lambda v: v > clean))
    found = trials.calibrated(FEATURE, TARGET)
    effects = {each: np.mean([each > 1.5 * (i % 5) for i in range(24)]) for each in STRENGTHS}
    assert found.strength == min(each for each in STRENGTHS if effects[each] >= 0.6)
    assert start_of(found) == start > found.strength
    assert effects[start] > effects[found.strength]


def test_edits_act_in_the_place_of_each_picture():
    draw, world = steered(lambda v, _: v > 4.5, lambda v: False)
    places = {str(i): Mask.of(np.eye(4)[i % 4][None].repeat(4, 0)) for i in range(64)}
    world = replace(world, place_mask=lambda _, prompt: places[prompt.text])
    seen = []

    def watched(prompts, seeds, edits):
        seen.extend(zip(prompts, edits or [None] * len(prompts), strict=True))
        return draw(prompts, seeds, edits)

    StrengthTrials(watched, world, place="object").at(FEATURE, TARGET, 5.0)
    placed = [(prompt.text, edits[0].where) for prompt, edits in seen if edits is not None]
    assert len(placed) == 24
    assert all(where == places[text] for text, where in placed)


def test_what_is_written_is_also_tried_on_other_pictures(tmp_path):
    """In pictures of the second seed (100 and more) only strengths over 7 bring the value about."""
    world = steered(lambda v, i: v > (7 if i >= 100 else 3), lambda v: v > 10)
    trials, held_out = StrengthTrials(*world), StrengthTrials(*world, seed=1)
    write_strengths(tmp_path / "s.json", trials, [("mid.0/1", FEATURE, TARGET)], held_out, lambda _: None)
    known = read_strengths(tmp_path / "s.json").known["mid.0/1"]
    assert (known.strength, known.start) == (4.0, 4.0)
    assert [(each.strength, each.read, each.pictures) for each in known.held_out] == [(4.0, 0.0, 24)]


def test_a_picture_is_judged_by_what_unedited_ones_are(session, monkeypatch):
    shapes = critics()["shapes"]
    judged = ExplorerSession(session.model("tiny"), strengths=FeatureStrengths(0.5))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    assert artifact_figure(judged, picture) is None  # no critic knows the tiny model
    monkeypatch.setitem(vars(judged), "critic", shapes)
    found = artifact_figure(judged, picture)
    assert found.strangeness == pytest.approx(float(shapes.strangeness([picture])[0]))
    assert found.note.startswith("an artifact" if found.strangeness > 0.5 else "no artifact")
