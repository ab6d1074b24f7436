"""Random controls: the norm of the sum, taken here in plain numpy from what `Edit` documents."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.edits.dictionaries import random_sae
from unbox.edit import Block, Direction, Edits, Feature
from unbox.edits import random_control
from unbox.errors import UnboxError

GRID = (6, 4)
SAES = {
    block: random_sae(block, width=8, latents=40, seed=seed) for seed, block in enumerate(("mid.0", "up.0.1"))
}
RANDOM = np.random.default_rng(3)
MASK = RANDOM.random(GRID).astype(np.float32)
MAPS = RANDOM.normal(size=(2, 3, *GRID)).astype(np.float32)  # (feature, step, y, x)
BOX = np.zeros(GRID, np.float32)
BOX[:3, 1:] = 1


def norm(edits, block, step):
    """Of the sum of what a block's edits put in: over channels, positions and both branches."""
    square = 0.0
    for branch in ("cond", "uncond"):
        field = np.zeros((*GRID, 8))
        for edit in edits:
            if edit.block != block or edit.op == "scale":
                continue
            if edit.steps is not None and not edit.steps[0] <= step < edit.steps[1]:
                continue
            sign = {"both": 1, "cond": branch == "cond", "uncond": branch == "uncond"}.get(edit.branch)
            sign = (1 if branch == "cond" else -1) if edit.branch == "contrast" else int(sign)
            value = (
                edit.value if isinstance(edit.value, float) else edit.value[min(step, len(edit.value) - 1)]
            )
            where = np.ones(GRID) if edit.where is None or edit.where.own else edit.where.array
            if edit.direction:
                field += sign * value * where[..., None] * np.array(edit.direction)
            for i, f in enumerate(edit.feature):
                maps = where
                if where.ndim == 4:
                    maps = where[i, min(step, where.shape[1] - 1)]
                elif where.ndim == 3:
                    maps = where[min(step, len(where) - 1)]
                vector = SAES[block].W_dec[f].double().numpy()
                unit = {"absolute": 1, "mean": SAES[block].stats.mean_active[f].item()}.get(
                    edit.unit, 2.5 / np.linalg.norm(vector)
                )
                field += sign * value * unit * maps[..., None] * vector
        square += (field**2).sum()
    return np.sqrt(square)


@st.composite
def edits_of_features(draw):
    block = draw(st.sampled_from(list(SAES)))
    features = tuple(draw(st.lists(st.integers(0, 11), min_size=1, max_size=3, unique=True)))
    op = draw(st.sampled_from(["add", "set", "replace", "scale"]))
    number = st.floats(0.1, 5)
    value = draw(number | st.lists(number, min_size=1, max_size=4))
    options = {"branch": draw(st.sampled_from(["both", "cond", "uncond"]))}
    masks = [None, MASK, BOX, np.stack([MASK, BOX])] + ([MAPS] if len(features) == 2 else [])
    options |= {"where": draw(st.sampled_from(masks)), "steps": draw(st.sampled_from([None, (0, 2), (1, 5)]))}
    subject = Feature(block, features, sae=SAES[block])
    if op == "scale":
        return subject.scale(value, **options)
    return getattr(subject, op)(
        value, unit=draw(st.sampled_from(["absolute", "mean", "deviation"])), **options
    )


@settings(max_examples=40)
@given(st.lists(edits_of_features(), min_size=1, max_size=4), st.integers(0, 99))
def test_the_sum_has_the_norm_of_the_original_at_every_step_on_other_features(edits, draw):
    edits = Edits(tuple(edits))
    control = random_control(edits, draw)
    for block in edits.blocks:
        for step in range(8):
            assert norm(control, block, step) == pytest.approx(norm(edits, block, step), rel=1e-5)
        edited, drawn = (
            {f for e in some if e.block == block for f in e.feature} for some in (edits, control)
        )
        assert not edited & drawn
        assert len(edited) == len(drawn)
    for one, other in zip(edits, control, strict=True):
        for name in ("block", "op", "unit", "where", "steps", "branch", "above", "source"):
            assert getattr(one, name) == getattr(other, name)
        assert len(one.feature) == len(other.feature)
        if one.op == "scale":
            assert one.value == other.value


@pytest.mark.parametrize("unit", ["absolute", "mean", "deviation"])
def test_one_edit_by_hand(unit):
    sae = SAES["mid.0"]
    edit = sae.feature((3, 9)).add([1.5, 3.0], unit=unit)
    (control,) = random_control(edit, 0)
    units = {
        "absolute": np.ones(40), "mean": sae.stats.mean_active.numpy(),
        "deviation": 2.5 / sae.W_dec.norm(dim=1).numpy(),
    }[unit]  # fmt: skip
    before, after = (
        np.linalg.norm(units[list(e.feature)] @ sae.W_dec.numpy()[list(e.feature)]) * np.array(e.value)
        for e in (edit, control)
    )
    assert np.allclose(after, before, rtol=1e-5)


def test_draws_are_repeatable_differ_and_do_not_depend_on_masks_or_values():
    feature = SAES["mid.0"].feature((3, 9))
    first, again, other = (random_control(feature.add(2), draw) for draw in (0, 0, 1))
    assert first == again != other
    assert random_control(feature.add(5, where=MASK), 0)[0].feature == first[0].feature
    assert random_control(feature.add(2), (0, 1)) != first


def test_a_feature_edited_twice_has_one_stand_in():
    feature = SAES["mid.0"].feature(3)
    added, scaled = random_control(feature.add(2) + feature.scale(0.5))
    assert added.feature == scaled.feature != (3,)
    assert scaled.value == 0.5


def test_only_the_living_are_drawn_and_too_few_are_refused():
    sae = SAES["mid.0"]
    density = torch.zeros(40)
    density[[1, 4, 7, 9]] = 0.1
    some = replace(sae, stats=replace(sae.stats, density=density))
    drawn = {
        f
        for draw in range(20)
        for e in random_control(some.feature((1, 2)).ablate(), draw)
        for f in e.feature
    }
    assert drawn == {4, 7, 9}
    with pytest.raises(UnboxError, match=r"too few living features.*3 that are not edited"):
        random_control(some.feature((1, 2, 3, 5)).ablate())
    with pytest.raises(UnboxError, match="without statistics"):
        random_control(replace(sae, stats=None).feature(1).ablate())
    with pytest.raises(UnboxError, match="carries no SAE"):
        random_control(Feature("mid.0", 1).ablate())


def test_directions_become_random_ones_and_whole_updates_stay():
    vector = RANDOM.normal(size=8)
    edits = Direction("mid.0", vector).add(2, branch="contrast") + Block("mid.0").scale(0.5)
    moved, stays = random_control(edits)
    assert stays == edits[1]
    assert np.linalg.norm(moved.direction) == pytest.approx(np.linalg.norm(vector))
    assert abs(np.dot(moved.direction, vector)) < 0.99 * np.linalg.norm(vector) ** 2
    assert norm([moved], "mid.0", 0) == pytest.approx(norm(edits, "mid.0", 0))
    both = Direction("mid.0", vector).add(2) + SAES["mid.0"].feature(3).add(1)
    assert norm(random_control(both), "mid.0", 0) == pytest.approx(norm(both, "mid.0", 0))


def test_boxes_of_other_places_do_not_overlap():
    """Two edits in two halves: the norm is that of both halves, not of the directions' sum."""
    sae, f = SAES["mid.0"], 3
    edits = sae.feature(f).add(3, unit="absolute", where=(0, 0, 0.5, 1)) + sae.feature(5).add(
        4, unit="absolute", where=(0.5, 0, 1, 1)
    )
    left, right = random_control(edits)
    assert np.hypot(left.value, right.value) == pytest.approx(5)  # unit directions on equal halves


def test_no_edit_is_its_own_control():
    assert random_control(Edits()) == Edits()


@pytest.mark.parametrize("draw", [-1, 0.5, None, "x", (), [1, None], 2**64])
def test_a_draw_is_a_number_or_several(draw):
    with pytest.raises(UnboxError, match=r"^random_control: draw"):
        random_control(Edits(), draw)
