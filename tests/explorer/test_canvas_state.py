"""The state of the canvas: a list of edits against a plain model of it, undo, masks from the canvas."""

import base64

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
            other = n + (1 if what == "down" else -1)
            canvas = canvas.move(n, other - n)
            if 0 <= other < len(plain):
                plain[n], plain[other] = plain[other], plain[n]
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


def test_a_stroke_is_undone_before_the_edit_that_came_first():
    mask = Mask.of(np.eye(64, dtype=np.float32))
    canvas = CanvasState(PLAIN).add(edit(1)).painted(mask)
    assert canvas.painted(mask) is canvas
    back = canvas.undo()
    assert (len(back.recipe.edits), back.mask) == (1, None)
    assert len(back.undo().recipe.edits) == 0
    assert back.redo().mask == mask


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
    assert mask is not None
    assert mask_to_canvas(mask, (64, 64)) == text
    assert mask_from_canvas(base64.b64encode(bytes(4096)).decode(), 64, 64) is None
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
