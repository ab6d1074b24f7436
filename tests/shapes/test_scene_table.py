"""Scenes drawn many at once against the renderer of one, and their captions in people's wordings."""

import random
import re
import tomllib
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from unbox.models.hub import bundled_folder
from unbox.recipes.shapes.people import people
from unbox.shapes import FACTORS, coverage, render, sample_scenes
from unbox.shapes.factors import TABLE
from unbox.shapes.free_captions import PAIRS, PLACES, WORDS, free_caption
from unbox.shapes.render_torch import draw
from unbox.shapes.scene_table import SceneTable, sample_table


def test_many_drawn_at_once_are_those_drawn_one_by_one():
    scenes = sample_scenes(200, 5)
    drawn = draw(SceneTable.of(scenes))
    ours = (drawn.pictures * 255).round().permute(0, 2, 3, 1).numpy()
    theirs = np.stack([render(scene) for scene in scenes]).astype(np.float32)
    assert np.abs(ours - theirs).max() <= 1  # float32 in another order, rounded
    for i in (0, 7, 31):
        for slot, thing in enumerate(scenes[i].objects):
            assert np.allclose(drawn.coverage[i, slot], coverage(thing), atol=1e-3)


def test_a_large_picture_is_the_small_one_drawn_finer():
    table = sample_table(64, 3)
    small, large = draw(table, 64).pictures, draw(table, 256).pictures
    assert float((torch.nn.functional.avg_pool2d(large, 4) - small).abs().mean()) < 0.006


def test_a_crop_cuts_off_above_and_left():
    table = sample_table(16, 3)
    whole = draw(table, 64).pictures
    cut = draw(table, 64, torch.tensor([[16.0, 8.0]]).expand(16, -1)).pictures
    assert torch.allclose(cut[:, :, :48, :56], whole[:, :, 16:, 8:], atol=1e-5)


def test_a_table_gives_its_scenes_back_and_is_the_same_for_a_seed():
    scenes = sample_scenes(40, 2, "heldout")
    table = SceneTable.of(scenes)
    for i, scene in enumerate(scenes):
        found = table.scene(i)
        assert found.factors() == scene.factors()
        assert found.objects[0].dx == pytest.approx(scene.objects[0].dx, abs=1e-6)
    one, two = sample_table(50, 9), sample_table(50, 9)
    assert all(np.array_equal(getattr(one, name), getattr(two, name)) for name in one.__dataclass_fields__)
    assert not np.array_equal(one.objects, sample_table(50, 10).objects)


def test_tables_hold_every_value_and_keep_the_splits_apart():
    looks = {}
    for split in ("train", "heldout"):
        table = sample_table(5000, 1, split)
        scenes = [table.scene(i) for i in range(len(table))]
        looks[split] = {(o.shape, o.colour, o.texture) for s in scenes for o in s.objects}
        for factor in FACTORS:
            assert {scene.factors()[factor] for scene in scenes} == set(FACTORS[factor])
    assert not looks["train"] & looks["heldout"]


def test_every_word_of_the_plain_captions_is_among_the_free_ones():
    for factor in ("shape", "colour", "size", "texture", "background"):
        for value, words in TABLE[factor].wordings.items():
            assert set(words) <= set(WORDS[factor][value])
    for factor, values in WORDS.items():
        every = [word for words in values.values() for word in words]
        assert len(every) == len(set(every)), factor  # one word means one value


def test_a_full_caption_says_everything_and_a_partial_one_what_it_claims():
    table, rng = sample_table(300, 4), random.Random(0)
    for i in range(300):
        scene = table.scene(i)
        text, said = free_caption(scene, rng)
        alone = scene.relation == "alone"
        assert len(said) == (7 if alone else 11)
        for slot, thing in enumerate(scene.objects):
            for factor in ("shape", "colour"):
                words = WORDS[factor][getattr(thing, factor)]
                assert any(word in text for word in words), (text, slot, factor)
        text, said = free_caption(scene, rng, full=False)
        for name in said:
            factor = name.split(".")[-1]
            if factor in ("shape", "colour", "size", "background"):
                value = getattr(scene.objects[int(name[0])] if "." in name else scene, factor)
                assert any(word in text for word in WORDS[factor][value]), (text, name)


def test_only_some_factors_are_mentioned_where_others_may_not_be():
    table, rng = sample_table(100, 4), random.Random(0)
    colours = {word for words in WORDS["colour"].values() for word in words}
    for i in range(100):
        text, said = free_caption(table.scene(i), rng, only=("position", "relation", "size"))
        assert {name.split(".")[-1] for name in said} <= {"position", "relation", "size"}
        assert not colours & set(text.replace(",", " ").split())


def test_held_out_wordings_never_occur_in_training():
    table = sample_table(1500, 6)
    texts = [free_caption(table.scene(i), random.Random(i))[0] for i in range(1500)]
    apart = (
        "shines from",
        "stands left",
        "placed in front",
        "kindly render",
        "that was painted",
        "tucked into",
    )
    assert not [text for text in texts if any(words in text for words in apart)]
    held = sample_table(300, 6, "heldout")
    texts = [free_caption(held.scene(i), random.Random(i), "heldout")[0] for i in range(300)]
    for words in apart:
        assert any(words in text for text in texts), words


def _words_by_split(table: object) -> tuple[set[str], set[str]]:
    """Words of the wordings in a table: those of training, and of the ones that begin with "~"."""
    if isinstance(table, str):
        words = set(re.findall(r"[a-z]+", re.sub(r"{.}", "", table)))
        return (set(), words) if table.startswith("~") else (words, set())
    parts = [_words_by_split(part) for part in (table.values() if isinstance(table, dict) else table)]
    return set().union(*(part[0] for part in parts)), set().union(*(part[1] for part in parts))


def test_words_of_relations_that_held_out_places_have_are_words_of_places_in_training():
    """A sense that no caption of training has nobody could read: "over" said only what lies above what, and
    "over in the lower left" was drawn at the top."""
    relations, _ = _words_by_split(PAIRS)
    training, held_out = _words_by_split(PLACES)
    assert "over" in relations & held_out
    assert relations & held_out <= training


def test_no_word_that_training_lacks_hides_a_word_of_a_value():
    """The tokenizer of `shapes-turbo` takes words apart: "centred" was drawn red."""
    pieces = CLIPTokenizer.from_pretrained(bundled_folder("bundled:shapes-turbo") / "tokenizer").tokenize
    values = {
        word for of in WORDS.values() for words in of.values() for each in words for word in each.split()
    }
    known = {pieces(word)[0] for word in values if len(pieces(word)) == 1}
    assert pieces("centred")[-1] in known
    table = tomllib.loads(files("unbox.shapes").joinpath("wordings.toml").read_text(encoding="utf-8"))
    training, held_out = _words_by_split(table)
    assert {"kindly", "tucked"} <= held_out - training
    assert not [word for word in held_out - training if known & set(pieces(word))]


def test_captions_are_short_enough_for_77_tokens():
    table = sample_table(1500, 8)
    longest = max((free_caption(table.scene(i), random.Random(i))[0] for i in range(1500)), key=len)
    assert len(longest.split()) <= 75


def test_peoples_own_captions_are_read_as_scenes():
    typed = people()
    assert len(typed) >= 50
    assert any("1.shape" in known for _, known in typed)
    assert all(known for _, known in typed)


def test_jitter_moves_and_turns_objects():
    scene = sample_scenes(1, 3, pairs=0.0)[0]
    moved = replace(scene, objects=(replace(scene.objects[0], dx=scene.objects[0].dx + 3),))
    a, b = draw(SceneTable.of([scene, moved]), 64).coverage[:, 0]
    assert torch.allclose(a[:, :-3], b[:, 3:], atol=1e-3)
