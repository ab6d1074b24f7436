"""The state of the canvas: a list of edits against a plain model of it, undo, masks from the canvas."""

import base64
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbox.edit import Feature
from unbox.errors import UnboxError
from unbox.explorer.canvas_state import MASK_SIDE, CanvasState, mask_from_canvas, mask_size, mask_to_canvas
from unbox.explorer.image_recipe import Recipe
from unbox.mask import Mask

PLAIN = Recipe("tiny", "a red cat", 7, 2, 0.0, 64, 64)


def edit(i: int):
    return Feature("mid.0", i).add(1.0)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 99)),
        st.tuples(st.sampled_from(["toggle", "remove", "up", "down"]), st.integers(0, 4)),
    ),
    max_size=25,
)


@given(actions)
def test_the_list_behaves_as_a_list_and_every_change_can_be_undone(steps):
    canvas, plain, states = CanvasState(PLAIN), [], []
    for what, n in steps:
        before = canvas.recipe
        if what == "add":
            canvas, plain = canvas.add(edit(n)), [*plain, (n, True)]
        elif n >= len(plain):
            with pytest.raises(UnboxError):
                canvas.toggle(n)
            continue
        elif what == "toggle":
            canvas = canvas.toggle(n)
            plain[n] = (plain[n][0], not plain[n][1])
        elif what == "remove":
            canvas = canvas.remove(n)
            del plain[n]
        else:
            to = n + (2 if what == "down" else -1)
            canvas = canvas.move(n, to)
            plain.insert(min(max(to, 0), len(plain) - 1), plain.pop(n))
        if canvas.recipe != before:
            states.append(before)
        found = [(e.feature[0], i not in canvas.recipe.off) for i, e in enumerate(canvas.recipe.edits)]
        assert found == plain
    last = canvas.recipe
    for state in reversed(states):
        canvas = canvas.undo()
        assert canvas.recipe == state
    for _ in states:
        canvas = canvas.redo()
    assert canvas.recipe == last


def test_strokes_layers_and_strengths_have_one_history():
    here, there = (Mask.of(np.eye(64, dtype=np.float32) * level) for level in (1, 0.2))
    canvas = CanvasState(PLAIN).stroke(here, edit(1))
    assert (len(canvas.recipe.edits), canvas.mask, canvas.chosen) == (1, here, 0)
    assert canvas.stroke(here, None).past == canvas.past  # nothing changed
    canvas = canvas.stroke(there, edit(9)).with_strength(0, 4.0)  # of the layer that is chosen
    assert [(each.feature, each.value, each.where) for each in canvas.recipe.edits] == [((1,), 4.0, there)]
    canvas = canvas.choose(None).stroke(here, edit(2)).toggle(0)
    seen = []
    while canvas.past:
        seen.append([(e.feature[0], e.value, e.where == here) for e in canvas.recipe.edits])
        canvas = canvas.undo()
    assert seen == [
        [(1, 4.0, False), (2, 1.0, True)], [(1, 4.0, False), (2, 1.0, True)], [(1, 4.0, False)],
        [(1, 1.0, False)], [(1, 1.0, True)],
    ]  # fmt: skip
    assert canvas.recipe == PLAIN
    assert canvas.stroke(Mask.of(np.zeros((64, 64))), None) is canvas


def test_a_slider_that_is_dragged_is_one_change():
    canvas = CanvasState(PLAIN).add(edit(1)).add(edit(2))
    dragged = canvas
    for value in (1.5, 2.0, 2.5):
        dragged = dragged.with_strength(0, value, held=True)
    dragged = dragged.with_strength(0, 3.0)
    assert [each.value for each in dragged.recipe.edits] == [3.0, 1.0]
    assert [each.value for each in dragged.undo().recipe.edits] == [1.0, 1.0]
    again = dragged.with_strength(0, 5.0)  # a second drag is a second change
    assert [each.value for each in again.undo().recipe.edits] == [3.0, 1.0]


def test_undo_leaves_the_settings_of_now():
    canvas = CanvasState(PLAIN).add(edit(1)).with_settings(replace(PLAIN, seed=9, prompt="a blue cat"))
    back = canvas.undo().recipe
    assert (back.seed, back.prompt, len(back.edits)) == (9, "a blue cat", 0)


def test_other_settings_leave_the_list():
    canvas = CanvasState(PLAIN).add(edit(1)).add(edit(2)).toggle(0)
    other = canvas.with_settings(Recipe("tiny", "a blue cat", 9, 3, 1.0, 64, 64))
    assert (other.recipe.prompt, other.recipe.seed) == ("a blue cat", 9)
    assert (other.recipe.edits, other.recipe.off) == (canvas.recipe.edits, canvas.recipe.off)
    assert other.past == canvas.past


def test_nothing_to_undo():
    with pytest.raises(UnboxError, match="nothing to undo"):
        CanvasState(PLAIN).undo()
    with pytest.raises(UnboxError, match="nothing to redo"):
        CanvasState(PLAIN).redo()


def test_a_painted_mask_comes_back():
    levels = np.zeros((64, 64), np.uint8)
    levels[10:20, 30:50] = 255
    text = base64.b64encode(levels.tobytes()).decode()
    mask = mask_from_canvas(text, 64, 64)
    assert mask_to_canvas(mask, (64, 64)) == text
    assert mask_from_canvas(base64.b64encode(bytes(4096)).decode(), 64, 64).empty
    assert mask_to_canvas(Mask.of("own"), (64, 64)) == ""


@pytest.mark.parametrize(
    ("mask", "width", "height"),
    [(None, 64, 64), ("!!", 64, 64), ("AAAA", 64, 64), ("A" * 10**6, 64, 64), ("AAAA", 10**9, 10**9),
     ("AAAA", float("nan"), 1), ("AAAA", 3, None), ("AAAA", -1, -3)],
)  # fmt: skip
def test_masks_that_no_canvas_sends(mask, width, height):
    with pytest.raises(UnboxError):
        mask_from_canvas(mask, width, height)


def test_the_canvas_has_the_pictures_shape():
    wide = Recipe("tiny", "", 0, 1, 0.0, 512, 1024)
    assert mask_size(wide) == (MASK_SIDE, MASK_SIDE // 2)
