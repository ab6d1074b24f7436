"""The bundled detector reads real renders, and says when a picture does not show what was asked."""

import numpy as np
import pytest
import torch
from PIL import Image

from unbox.shapes import FACTORS, Scene, render, sample_scenes
from unbox.shapes.detector import HEADS, Detector, accuracy


@pytest.fixture(scope="module")
def detector():
    return Detector.load()


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_factor_of_real_renders_is_read(detector, split):
    scenes = sample_scenes(400, seed=900, split=split)
    found = accuracy(detector, [render(scene) for scene in scenes], scenes)
    assert set(found) == {*FACTORS, "all"}
    assert min(found.values()) >= 0.99


def test_reading_says_what_the_scene_says(detector):
    scene = next(s for s in sample_scenes(50, seed=4) if s.relation == "above")
    (said,) = detector.read([render(scene)])
    assert said["objects"] == 2
    assert said["relation"] == "above"
    assert [slot["shape"] for slot in said["slots"]] == [thing.shape for thing in scene.objects]


def test_a_missing_object_counts_all_that_was_asked_of_it_as_wrong(detector):
    pair = next(s for s in sample_scenes(50, seed=4) if s.relation == "left of")
    first = pair.objects[0]
    alone = Scene((first,), "alone", pair.background, pair.light)
    found = accuracy(detector, [render(alone)], [pair])
    assert found["relation"] == 0
    assert found["shape"] <= 0.5


def test_other_sizes_are_resampled_and_probabilities_sum_to_one(detector):
    picture = Image.fromarray(render(sample_scenes(1, 3)[0]))
    small, large = picture, picture.resize((128, 128), Image.Resampling.NEAREST)
    p = detector.probabilities([small, large])
    assert set(p) == set(HEADS)
    for values in p.values():
        assert np.allclose(values.sum(-1), 1, atol=1e-5)
        assert values[0].argmax() == values[1].argmax()


def test_no_pictures_give_empty_tables(detector):
    assert all(p.shape == (0, len(HEADS[name])) for name, p in detector.probabilities([]).items())
    assert detector.read([]) == []


def test_a_reader_on_another_device_is_a_copy():
    reader = Detector.load()
    assert reader.on(torch.device("cpu")) is reader
    away = reader.on(torch.device("meta"))
    assert away.device.type == "meta"
    assert reader.device.type == "cpu"
