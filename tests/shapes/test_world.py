"""The Shapes world: deterministic, divided into splits, told truly by its captions and masks."""

import json
from itertools import product

import numpy as np
import pytest

from unbox.errors import UnboxError
from unbox.shapes import FACTORS, Object, Scene, caption, masks, prompts, render, sample_scenes, scene_rng
from unbox.shapes.factors import TABLE
from unbox.shapes.render import COLOURS

PLAIN = Scene((Object("circle", "red", "large", "solid", "center"),), "alone", "gray", "bright")


def test_scenes_depend_on_seed_split_and_index_alone():
    assert sample_scenes(20, seed=3) == sample_scenes(40, seed=3)[:20]
    assert sample_scenes(20, seed=3) != sample_scenes(20, seed=4)
    assert np.array_equal(render(sample_scenes(1, 5)[0]), render(sample_scenes(1, 5)[0]))


def test_held_out_looks_never_occur_in_training():
    def looks(split):
        scenes = sample_scenes(4000, split=split)
        return {(t.shape, t.colour, t.texture) for s in scenes for t in s.objects}

    train, heldout = looks("train"), looks("heldout")
    assert not train & heldout
    assert train | heldout == set(product(FACTORS["shape"], FACTORS["colour"], FACTORS["texture"]))


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_value_occurs_in_both_splits(split):
    scenes = sample_scenes(2000, split=split)
    for factor, values in FACTORS.items():
        seen = {scene.factors(slot)[factor] for scene in scenes for slot in range(len(scene.objects))}
        assert seen == set(values)


def test_held_out_wordings_never_occur_in_training_but_their_words_do():
    train = {p.text for p in prompts(3000, seed=0, split="train")}
    heldout = {p.text for p in prompts(1000, seed=0, split="heldout")}
    assert not train & heldout
    vocabulary = set(" ".join(train).replace(",", "").replace(":", "").split())
    assert set(" ".join(heldout).replace(",", "").replace(":", "").split()) <= vocabulary


def test_full_captions_say_every_factor():
    for prompt in prompts(300, seed=2):
        scene = Scene.from_json(prompt.meta["scene"])
        for factor in ("shape", "colour", "size", "texture"):
            for thing in scene.objects:
                words = TABLE[factor].wordings[getattr(thing, factor)]
                assert any(word in prompt.text for word in words), (prompt.text, factor)


def test_partial_captions_leave_out_what_they_do_not_mention():
    told = [p for p in prompts(500, seed=2, full=False) if "background" not in p.meta["mentioned"]]
    assert told
    assert all("background" not in p.text for p in told)


def test_the_same_relation_is_said_both_ways():
    left = Object("star", "red", "small", "solid", "left")
    right = Object("heart", "blue", "small", "solid", "right")
    scene = Scene((left, right), "left of", "gray", "dim")
    said = {caption(scene, scene_rng(i, 0, "train"))[0] for i in range(40)}
    assert any("left of" in text for text in said)
    assert any("right of" in text for text in said)


def test_masks_hold_the_object_and_nothing_else():
    mask = masks(PLAIN)[0]
    image = render(PLAIN).astype(int)
    inside = image[mask].mean(0)
    assert np.allclose(inside, 255 * np.array(COLOURS["red"]), atol=12)
    ring = np.ones_like(mask)
    ring[24:104, 24:104] = False
    assert not mask[ring].any()


@pytest.mark.parametrize("factor", [f for f in FACTORS if f != "relation"])
def test_every_value_of_a_factor_looks_different(factor):
    images = [render(PLAIN.with_factor(factor, value)).astype(float) for value in FACTORS[factor]]
    for i, one in enumerate(images):
        for other in images[i + 1 :]:
            assert np.abs(one - other).mean() > 1


def test_scenes_round_trip_through_json():
    for scene in sample_scenes(50):
        assert Scene.from_json(json.loads(json.dumps(scene.to_json()))) == scene


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda: Object("blob", "red", "small", "solid", "left"), "circle"),
        (lambda: Scene(PLAIN.objects * 2, "alone", "gray", "dim"), "alone"),
        (lambda: Scene(PLAIN.objects * 2, "left of", "gray", "dim"), "left and right"),
        (lambda: Scene.from_json({"objects": []}), "relation"),
        (lambda: sample_scenes(1, split="test"), "heldout"),
        (lambda: PLAIN.with_factor("relation", "above"), "relation"),
    ],
)
def test_mistakes_name_what_exists(bad, words):
    with pytest.raises(UnboxError, match=words):
        bad()
