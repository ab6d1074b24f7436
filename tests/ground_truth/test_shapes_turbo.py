"""What `shapes-turbo` can do, drawn by `generate` and read by two critics that share nothing."""

from collections import Counter

import numpy as np
import pytest

import unbox
from unbox.edit import Block
from unbox.models.conditioning import Micro
from unbox.recipes.shapes.people import people
from unbox.shapes import FACTORS, Scene, prompts
from unbox.shapes.detector import HEADS, Detector, accuracy
from unbox.shapes.factor_critics import CRITICS, load_critic
from unbox.site import DEFAULT_BLOCKS


@pytest.fixture(scope="module")
def model():
    return unbox.load("shapes-turbo")


@pytest.fixture(scope="module")
def captions():
    """Held-out looks, everything said."""
    return prompts(48, 100, "heldout", True)


def drawn(model, texts, steps, **options):
    return model.generate(texts, seeds=list(range(len(texts))), steps=steps, batch_size=16, **options)


def factor_of(head):
    return head.split(".")[-1]


def heads_read(critic, pictures):
    """(pictures, heads): the likeliest value's index."""
    return np.stack([p.argmax(-1) for p in critic.probabilities(pictures).values()], 1)


def test_its_size_and_context_are_as_its_card_says(model):
    assert model.system.size == 128
    assert model.pipeline.tokenizer.model_max_length == 77
    assert drawn(model, ["a red circle"], 1)[0].size == (128, 128)


@pytest.mark.slow
@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("steps", [1, 4])
def test_it_draws_what_captions_say(model, captions, steps, critic):
    scenes = [Scene.from_json(p.meta["scene"]) for p in captions]
    found = accuracy(load_critic(critic), drawn(model, [p.text for p in captions], steps), scenes)
    assert found["all"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4])
def test_it_draws_what_people_type(model, steps):
    typed = people()
    read = heads_read(Detector.load(), drawn(model, [text for text, _ in typed], steps))
    right: dict[str, list[bool]] = {name: [] for name in FACTORS}
    for row, (_, known) in zip(read, typed, strict=True):
        for head, value in known.items():
            right[factor_of(head)].append(HEADS[head][row[list(HEADS).index(head)]] == value)
    assert {name: float(np.mean(oks)) for name, oks in right.items() if np.mean(oks) < 0.9} == {}
    assert np.mean([ok for oks in right.values() for ok in oks]) >= 0.95


@pytest.mark.slow
def test_the_four_default_blocks_do_the_work_each_its_own(model, captions):
    texts, critic = [p.text for p in captions], Detector.load()
    before = drawn(model, texts, 1)
    read, owned = heads_read(critic, before), {}
    for block, least in BARS.items():
        after = drawn(model, texts, 1, edits=Block(block).ablate())
        change = np.stack(after).astype(np.float64) / 255 - np.stack(before) / 255
        assert np.sqrt(np.square(change).mean()) >= least, block
        changed = (heads_read(critic, after) != read).mean(0)
        owned[block] = Counter(
            {factor_of(h): float(c) for h, c in zip(HEADS, changed, strict=True) if h[:2] != "1."}
        )
    assert len({frozenset(name for name, _ in found.most_common(2)) for found in owned.values()}) == len(BARS)


#: Root mean square change of pictures at one step without the block, at least.
BARS = {"down.2.1": 0.05, "mid.0": 0.02, "up.0.0": 0.02, "up.0.1": 0.05}


def test_the_bars_are_of_the_default_blocks():
    assert set(BARS) == set(DEFAULT_BLOCKS)


@pytest.mark.slow
def test_sizes_and_crops_act(model, captions):
    said = [p.text for p in captions[:16]]
    texts = [
        f"a large solid {colour} circle in the center on a gray background" for colour in FACTORS["colour"]
    ]

    def sharpness(original):
        pictures = drawn(model, said, 4, micro=Micro(original=(original, original)))
        return np.mean([np.abs(np.diff(np.asarray(p, np.float32), 2, 0)).mean() for p in pictures])

    assert sharpness(32) < 0.8 * sharpness(128)
    moved = heads_read(load_critic("patches"), drawn(model, texts, 4, micro=Micro(crop=(32, 0))))
    places = moved[:, list(HEADS).index("0.position")]
    assert np.mean(places == FACTORS["position"].index("top")) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("factor", ["colour", "texture", "background"])
def test_seeds_decide_what_is_left_open(model, factor, steps):
    said = {"colour": "red", "texture": "striped", "background": "on a teal background"} | {factor: ""}
    text = (
        f"a large {said['texture']} {said['colour']} square in the center {said['background']}, bright light"
    )
    read = heads_read(Detector.load(), drawn(model, [" ".join(text.split())] * 40, steps))
    values = read[:, list(HEADS).index(factor if factor in HEADS else f"0.{factor}")]
    assert np.mean(values[::2] != values[1::2]) >= 0.5 * (1 - 1 / len(FACTORS[factor]))
