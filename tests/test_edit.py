"""Edits are values: validated, equal by content, the same after JSON, composed with +."""

import json

import numpy as np
import pytest

from unbox.edit import Block, Direction, Edit, Edits, Feature
from unbox.errors import UnboxError

CAT = Feature("up.0.1", 4977)
EDITS = [
    CAT.add(2),
    CAT.add([0, 1, 2.5], unit="deviation", branch="contrast"),
    CAT.scale(3, where=np.eye(4), steps=range(0, 2), branch="cond"),
    CAT.set(1.5, unit="absolute", above=0.1),
    CAT.ablate(where=(0, 0, 0.5, 0.5)),
    CAT.replace(10),
    Feature("mid.0", (1, 5, 7)).add(1, where=np.random.default_rng(0).random((3, 2, 4, 4))),
    Feature("mid.0", 3, source="k20").add(1, where="own"),
    Direction("down.2.1", np.arange(1.0, 5.0)).add(0.25),
    Block("up.1.2").ablate(steps=0),
    Block("up.1.2").reconstruct(),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: f"{e.subject}-{e.op}")
def test_json_round_trip(edit):
    written = json.dumps(edit.to_json(), allow_nan=False)
    again = Edit.from_json(json.loads(written))
    assert again == edit
    assert hash(again) == hash(edit)


def test_composition_keeps_order_and_round_trips():
    edits = EDITS[0] + EDITS[1] + (EDITS[2] + EDITS[3]) + None
    assert list(edits) == EDITS[:4]
    assert sum(EDITS, Edits()) == sum(EDITS[1:], Edits.of(EDITS[0])) == Edits(tuple(EDITS))
    assert Edits.from_json(json.loads(json.dumps(Edits(tuple(EDITS)).to_json()))) == Edits(tuple(EDITS))
    assert Edits(tuple(EDITS)).blocks == ("up.0.1", "mid.0", "down.2.1", "up.1.2")


def test_the_sae_travels_in_memory_only():
    sae = np.zeros(3)
    edit = Feature("mid.0", 1, sae=sae).scale(2)
    assert edit.sae is sae
    assert "sae" not in edit.to_json()
    assert edit == Feature("mid.0", 1).scale(2)


def test_numpy_and_torch_numbers_are_plain_numbers():
    edit = Feature("mid.0", np.int64(3)).add(np.array([1, 2], np.float32))
    assert edit == Feature("mid.0", 3).add((1.0, 2.0))
    assert json.dumps(edit.to_json())


@pytest.mark.parametrize(
    ("edit", "identity"),
    [
        (CAT.add(0), True),
        (CAT.add([0, 0]), True),
        (CAT.scale(1), True),
        (CAT.add(1, steps=(2, 2)), True),
        (CAT.add(1, where=np.zeros((2, 2))), True),
        (CAT.add([0, 1]), False),
        (CAT.ablate(), False),
        (CAT.set(0), False),
        (Block("mid.0").reconstruct(), False),
    ],
    ids=str,
)
def test_identity(edit, identity):
    assert edit.identity is identity
    assert Edits.of(edit).identity is identity


def test_values_over_steps():
    edit = CAT.add([1, 2, 3], steps=(1, 5))
    assert [edit.at(t) for t in range(6)] == [None, 2, 3, 3, 3, None]


@pytest.mark.parametrize(
    ("branch", "signs"), [("both", (1, 1)), ("cond", (1, 0)), ("uncond", (0, 1)), ("contrast", (1, -1))]
)
def test_branches(branch, signs):
    edit = CAT.add(1, branch=branch)
    assert (edit.sign("cond"), edit.sign("uncond")) == signs


@pytest.mark.parametrize(
    "make",
    [
        lambda: Feature("up.9", 1).add(1),
        lambda: Feature("up.0.1", -1).add(1),
        lambda: Feature("up.0.1", 1.5).add(1),
        lambda: Feature("up.0.1", (1, 1)).add(1),
        lambda: CAT.add(float("nan")),
        lambda: CAT.add("much"),
        lambda: CAT.add([]),
        lambda: CAT.add(1, unit="percent"),
        lambda: CAT.add(1, branch="left"),
        lambda: CAT.add(1, steps=range(0, 4, 2)),
        lambda: CAT.add(1, steps=(3, 1)),
        lambda: CAT.add(1, above=1),
        lambda: CAT.scale(2, branch="contrast"),
        lambda: CAT.replace(2, where="own"),
        lambda: CAT.add(1, where=np.ones((2, 1, 4, 4))),
        lambda: Direction("mid.0", [0, 0]).add(1),
        lambda: Direction("mid.0", [0, 1]).add(1, unit="mean"),
        lambda: Edit("mid.0", "add"),
        lambda: Edit("mid.0", "scale", unit="mean"),
        lambda: Edit("mid.0", "add", feature=(1,), direction=(1.0,)),
        lambda: CAT.add(1) + 3,
        lambda: Edit.from_json({"block": "mid.0"}),
        lambda: Edit.from_json({"block": "mid.0", "op": "add", "feature": [1], "colour": 2}),
        lambda: Edit.from_json({"block": "mid.0", "op": "add", "feature": [1], "where": {"circle": 1}}),
        lambda: Edits.from_json({"version": 99, "edits": []}),
        lambda: Edits.from_json("add"),
    ],
)
def test_what_does_not_fit_is_refused(make):
    with pytest.raises(UnboxError):
        make()


def test_names():
    assert CAT.name == "up.0.1/4977"
    assert Feature("mid.0", (1, 2)).name == "mid.0/1,2"
