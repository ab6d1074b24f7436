"""The delta of edits against a reference that does one edit after another on dense codes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.edits.dictionaries import dense, random_sae
from unbox.capture.activation_hooks import update
from unbox.edit import Block, Direction, Edit, Edits, Feature
from unbox.edit_ops import OPS, EditOp
from unbox.edits.edited_block import ImageEdits
from unbox.edits.program import Program
from unbox.errors import UnboxError

WIDTH, GRID = 6, (4, 4)
SAE = random_sae()
UPDATE = torch.randn(3, *GRID, WIDTH, generator=torch.Generator().manual_seed(5))
MASK = np.random.default_rng(0).random(GRID).astype(np.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_edits_read_the_update_that_is_recorded(dtype):
    """256 - 0.996 is 255.004 in float32 and 255 in bfloat16: one definition of it, to the last bit."""
    read = []

    class Reading(Program):
        def delta(self, output, update, step, branch):
            read.append(update)
            return super().delta(output, update, step, branch)

    draw = torch.Generator().manual_seed(3)
    given, made = (scale * torch.randn(2, WIDTH, *GRID, generator=draw) for scale in (1.0, 300.0))
    given, made = given.to(dtype), made.to(dtype)
    ImageEdits(Reading((feature(1).scale(2),), WIDTH)).delta(given, made, 0, "cond")
    assert torch.equal(read[0], update(given, made, torch.float32))


def feature(index):
    return Feature("mid.0", index, sae=SAE)


def delta(edits, update=UPDATE, step=0, branch="cond"):
    program = Program(tuple(Edits.of(edits)), WIDTH)
    result = program.delta(update, update if program.reads else None, step, branch)
    return torch.zeros_like(update) if result is None else result.expand_as(update)


def weights(edit, z0, step):
    if edit.where is None:
        return torch.ones(*GRID)
    if edit.where.own:
        return z0 / z0.amax((-2, -1), keepdim=True).clamp(min=1e-30)
    placed = edit.where.on(*GRID)
    return torch.from_numpy(placed if placed.ndim == 2 else placed[min(step, len(placed) - 1)])


def reference(edits, update, step, branch):
    """One feature edit after another on the dense codes, as `unbox.edit` documents."""
    read = dense(SAE, update)
    codes = read.clone()
    for edit in edits:
        value = edit.at(step)
        for f in edit.feature if value is not None else ():
            unit = {"absolute": 1.0, "mean": float(SAE.stats.mean_active[f]), "deviation": SAE.update_std}[
                edit.unit
            ]
            now = codes[..., f]
            target = {
                "add": now + value * unit,
                "scale": now * value,
                "set": torch.full_like(now, value * unit),
            }
            where = weights(edit, read[..., f], step) * edit.sign(branch)
            if edit.above is not None:
                where = where * (read[..., f] > edit.above)
            codes[..., f] = now + where * (target[edit.op] - now)
    return (codes - read) @ SAE.W_dec


options = st.fixed_dictionaries(
    {},
    optional={
        "where": st.sampled_from([MASK, "own", (0.0, 0.25, 0.6, 1.0), np.stack([MASK, 1 - MASK])[:, ::2]]),
        "steps": st.sampled_from([range(0, 1), range(1, 3), (0, 2)]),
        "branch": st.sampled_from(["both", "cond", "uncond"]),
    },
)
values = st.one_of(st.floats(-3, 3), st.lists(st.floats(-3, 3), min_size=1, max_size=3))
units = st.sampled_from(["absolute", "mean", "deviation"])


@st.composite
def feature_edits(draw):
    subject = feature(draw(st.integers(0, 11)))
    op = draw(st.sampled_from(["add", "scale", "set", "contrast"]))
    more = draw(options)
    if op == "scale":
        return subject.scale(draw(values), above=draw(st.sampled_from([None, 0.7])), **more)
    if op == "contrast":
        return subject.add(draw(values), unit=draw(units), **{**more, "branch": "contrast"})
    return getattr(subject, op)(draw(values), unit=draw(units), **more)


@settings(max_examples=150)
@given(
    st.lists(feature_edits(), min_size=1, max_size=6), st.integers(0, 3), st.sampled_from(["cond", "uncond"])
)
def test_feature_edits_are_the_sequential_reference(edits, step, branch):
    got = delta(Edits(tuple(edits)), step=step, branch=branch)
    assert torch.allclose(got, reference(edits, UPDATE, step, branch), atol=1e-4)


@settings(max_examples=50)
@given(st.lists(feature_edits(), min_size=2, max_size=5, unique_by=lambda e: e.feature), st.randoms())
def test_edits_of_different_features_commute(edits, random):
    shuffled = random.sample(edits, len(edits))
    assert torch.allclose(delta(Edits(tuple(edits))), delta(Edits(tuple(shuffled))), atol=1e-5)


def test_scale_and_set_of_one_feature_act_in_order():
    f = int(SAE.encode(UPDATE).indices[0, 0, 0, 0])
    first = delta(feature(f).set(1, unit="absolute") + feature(f).scale(3))
    second = delta(feature(f).scale(3) + feature(f).set(1, unit="absolute"))
    assert torch.allclose(first, (3 - dense(SAE, UPDATE)[..., f : f + 1]) * SAE.W_dec[f], atol=1e-5)
    assert torch.allclose(second, (1 - dense(SAE, UPDATE)[..., f : f + 1]) * SAE.W_dec[f], atol=1e-5)


@pytest.mark.parametrize("where", [None, MASK])
@pytest.mark.parametrize("unit", ["absolute", "mean", "deviation"])
def test_add_then_its_negative_is_exactly_nothing(where, unit):
    edits = feature(3).add(0.3, unit=unit, where=where) + feature(3).add(-0.3, unit=unit, where=where)
    assert not delta(edits).any()


def test_an_add_of_one_deviation_has_the_norm_of_the_updates_deviation():
    assert torch.allclose(delta(feature(3).add(1, unit="deviation")).norm(dim=-1), torch.tensor(2.5))
    along = Direction("mid.0", [3.0, 0, 0, 0, 0, 0], sae=SAE).add(2, unit="deviation")
    assert torch.allclose(delta(along).norm(dim=-1), torch.tensor(5.0))


def test_adds_need_no_update_and_a_hundred_cost_one_tensor():
    program = Program(tuple(feature(i % 12).add(i, where=MASK) for i in range(100)), WIDTH)
    assert not program.reads
    first = program.delta(UPDATE, None, 0, "cond")
    assert program.delta(UPDATE, None, 1, "cond").data_ptr() == first.data_ptr()


def test_directions_scale_their_projection():
    direction = Direction("mid.0", [1.0, 2, 0, 0, -1, 0])
    gone = UPDATE + delta(direction.ablate())
    assert torch.allclose(gone @ torch.tensor(direction.vector), torch.zeros(()), atol=1e-5)
    assert torch.allclose(delta(direction.add(2)), 2 * torch.tensor(direction.vector))


def test_whole_updates():
    assert torch.allclose(UPDATE + delta(Block("mid.0").ablate()), torch.zeros(()), atol=1e-6)
    assert torch.allclose(UPDATE + delta(Block("mid.0").scale(0.25)), UPDATE / 4, atol=1e-6)
    rebuilt = UPDATE + delta(Block("mid.0").reconstruct(SAE))
    assert torch.allclose(rebuilt, SAE.decode(SAE.encode(UPDATE)), atol=1e-5)


def test_replace_leaves_the_feature_alone_and_what_is_added_after():
    icon = UPDATE + delta(feature(2).replace(4, unit="absolute"))
    assert torch.allclose(icon, 4 * SAE.W_dec[2], atol=1e-5)
    both = UPDATE + delta(feature(2).replace(4, unit="absolute") + feature(5).add(1, unit="absolute"))
    assert torch.allclose(both, 4 * SAE.W_dec[2] + SAE.W_dec[5], atol=1e-5)
    partly = UPDATE + delta(feature(2).replace(4, unit="absolute", where=(0, 0, 1, 0.5)))
    assert torch.allclose(partly[:, :2], 4 * SAE.W_dec[2].expand(3, 2, 4, WIDTH), atol=1e-5)
    assert torch.equal(partly[:, 2:], UPDATE[:, 2:])


def test_maps_of_several_features():
    maps = np.random.default_rng(1).random((2, 3, *GRID)).astype(np.float32)
    got = delta(feature((1, 4)).add(2, unit="absolute", where=maps), step=1)
    expected = 2 * torch.einsum("fyx,fd->yxd", torch.from_numpy(maps[:, 1]), SAE.W_dec[[1, 4]])
    assert torch.allclose(got, expected.expand_as(UPDATE), atol=1e-5)


def test_nothing_outside_the_mask():
    edits = feature(1).add(5, where=(0, 0, 0.5, 1)) + feature((0, 3, 7)).ablate(where=(0, 0, 0.5, 1))
    assert not delta(edits)[:, :, 2:].any()


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (Feature("mid.0", 1).scale(2), "carries no SAE"),
        (Block("mid.0").reconstruct(), "carries no SAE"),
        (Direction("mid.0", [1.0] * 6).add(1, unit="deviation"), "carries no SAE"),
        (feature(12).add(1), "12, from 0 to 11"),
        (Direction("mid.0", [1.0] * 5).add(1), "5 channels"),
        (Block("mid.0").reconstruct(random_sae(width=7)), "7 channels"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(edits, message):
    with pytest.raises(UnboxError, match=message):
        Program(tuple(Edits.of(edits)), WIDTH)


def test_a_feature_that_never_fired_has_no_mean_to_count_in():
    sae = random_sae()
    sae.stats.mean_active[3] = 0
    with pytest.raises(UnboxError, match="never active"):
        Program((Feature("mid.0", 3, sae=sae).add(1),), WIDTH)
    Program((Feature("mid.0", 3, sae=sae).add(1, unit="deviation"),), WIDTH)


def test_a_new_op_is_a_new_row(monkeypatch):
    monkeypatch.setitem(OPS, "square", EditOp(("feature",), lambda x, value, amount: value * x**2))
    f = int(SAE.encode(UPDATE).indices[0, 0, 0, 0])
    z = dense(SAE, UPDATE)[..., f : f + 1]
    edit = Edit("mid.0", "square", 2.0, feature=(f,), sae=SAE)
    assert torch.allclose(delta(edit), (2 * z**2 - z) * SAE.W_dec[f], atol=1e-5)
    assert Edit.from_json(edit.to_json()) == edit
    with pytest.raises(UnboxError, match="should be an op of direction edits"):
        Edit("mid.0", "square", 2.0, direction=(1.0,))
