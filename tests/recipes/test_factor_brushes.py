"""Brushes: factors of SAE features by where a value is drawn, and what they do in the bundled model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unbox import load
from unbox.edit import Edits
from unbox.errors import UnboxError
from unbox.experiments.feature_strengths import read_strengths
from unbox.explorer.open_session import BUNDLED, SYSTEM
from unbox.ground_truth.effects import readings
from unbox.recipes.factor_brushes import BRUSHED, STRENGTHS, load_brushes, value_factors
from unbox.sae import directions_of, load_saes
from unbox.sae.model import SAE
from unbox.shapes import FACTORS, Object, Scene, masks, prompts
from unbox.shapes.detector import Detector
from unbox.shapes.where import place_mask

WIDTH, SIDE = 12, 16


class _Rows:
    """Updates whose channel of the object's colour is `much` where it is drawn; channel 9 is 1 everywhere,
    channel 10 where there is no object."""

    def __init__(self, scenes, much):
        self.scenes, self.much, self.shape = scenes, much, (len(scenes), 2, 1, SIDE, SIDE, WIDTH)

    def read(self, i):
        (thing,), drawn = self.scenes[i].objects, masks(self.scenes[i])[0]
        cells = drawn.reshape(SIDE, 8, SIDE, 8).mean((1, 3))
        update = np.zeros(self.shape[1:], np.float32)
        update[..., FACTORS["colour"].index(thing.colour)] = self.much * (cells > 0)
        update[..., 9] = 1
        update[..., 10] = cells == 0
        return update


@pytest.fixture
def world():
    """An SAE whose latents are the channels, and two scenes of each colour."""
    eye = torch.eye(WIDTH)
    sae = SAE(eye, eye.clone(), torch.zeros(WIDTH), torch.zeros(WIDTH), WIDTH, "up.0.1", "up.0.1")
    scenes = [
        Scene((Object(shape, colour, "large", "solid", "center"),), "alone", "gray", "bright")
        for colour in FACTORS["colour"]
        for shape in ("square", "circle")
    ]
    return sae, _Rows(scenes, 3.0), scenes


def test_a_factor_is_what_there_is_more_of_where_the_value_is_drawn(world):
    """3 of its own channel, and less of each other: 3 / 7 (of seven other colours one
    has it); nothing of what is everywhere or beside the object."""
    sae, rows, scenes = world
    found = value_factors(sae, rows, scenes, "colour", count=8)
    assert tuple(found) == FACTORS["colour"]
    for place, factor in enumerate(found.values()):
        assert factor.features[0] == place
        assert factor.weights[0] == pytest.approx(3.0)
        assert sorted(factor.features) == list(range(8))
        assert factor.weights[1:] == pytest.approx([-3 / 7] * 7)
    (one,) = value_factors(sae, rows, scenes, "colour", count=1)["red"].features
    assert one == 0


def test_a_value_that_no_picture_shows_is_named(world):
    sae, rows, scenes = world
    with pytest.raises(UnboxError, match="shows the colour white: collect more than 14"):
        value_factors(sae, rows, scenes[:-2], "colour")


def test_those_that_are_brought_are_made_of_the_features_of_the_saes_beside_them():
    saes, brushes = load_saes(BUNDLED / "saes"), load_brushes(BUNDLED)
    called = []
    for sae in brushes.values():
        assert sae.update_std == saes[sae.block].update_std
        for vector, each in zip(sae.W_dec, directions_of(sae), strict=True):
            summed = sum(
                weight * saes[name.rpartition("/")[0]].W_dec[int(name.rpartition("/")[2])]
                for name, weight in each.parts.items()
            )
            np.testing.assert_allclose(each.length * vector, summed, atol=1e-4)
            called.append(each.label)
    assert called == [value for factor in BRUSHED for value in FACTORS[factor]]


def test_most_of_those_that_are_brought_are_calibrated_and_held_out_pictures_agree():
    known = read_strengths(BUNDLED / STRENGTHS).known
    values = {each.value for each in known.values() if each.factor == "colour"}
    assert len(values) >= len(FACTORS["colour"]) / 2
    for each in known.values():
        (start,) = (row for row in each.held_out if row.strength == each.start)
        assert start.read > 0.5
        assert start.artifacts <= 0.15  # three of 24: chosen on others at most a tenth
    starts = [row for each in known.values() for row in each.held_out if row.strength == each.start]
    assert np.mean([row.read for row in starts]) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("value", ["red", "blue", "striped"])
def test_a_brush_over_the_object_brings_its_value_about(value):
    model, brushes = load(SYSTEM), load_brushes(BUNDLED)
    name, known = next(
        (n, k) for n, k in read_strengths(BUNDLED / STRENGTHS).known.items() if k.value == value
    )
    sae, _, index = name.rpartition("/")
    feature = brushes[sae].feature(int(index))
    lacking = [
        each
        for each in prompts(24, seed=77, split="heldout", full=True, pairs=0.0)
        if Scene.from_json(each.meta["scene"]).factors()[known.factor] != value
    ][:8]
    edits = [
        Edits((feature.add(known.start, unit="deviation",
                           where=place_mask("object", Scene.from_json(each.meta["scene"]))),))
        for each in lacking
    ]  # fmt: skip
    texts, seeds = [each.text for each in lacking], list(range(8))
    after = readings(Detector.load(), model.generate(texts, seeds=seeds, edits=edits))
    random = torch.nn.functional.normalize(torch.randn(128, generator=torch.manual_seed(0)), dim=0)
    drawn = [
        Edits(tuple(replace(e, feature=(), direction=tuple(random.tolist())) for e in each)) for each in edits
    ]
    control = readings(Detector.load(), model.generate(texts, seeds=seeds, edits=drawn))
    assert sum(each[known.factor] == value for each in after) >= 6
    assert sum(each[known.factor] == value for each in control) <= 2
