"""Edits are values: validated, equal by content, the same after JSON, composed with +."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unbox.edit import Block, Direction, Edit, Edits, Feature
from unbox.errors import FieldError, UnboxError

CAT, CAT_OF_MID = Feature("up.0.1", 4977), Feature("mid.0", 3)
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
    sae = SimpleNamespace(W_dec=np.zeros((3, 2)))
    edit = Feature("mid.0", 1, sae=sae).scale(2)
    assert edit.sae is sae
    assert "sae" not in edit.to_json()
    assert edit == Feature("mid.0", 1).scale(2)


def test_numpy_and_torch_numbers_are_plain_numbers():
    edit = Feature("mid.0", np.int64(3)).add(np.array([1, 2], np.float32))
    assert edit == Feature("mid.0", 3).add((1.0, 2.0)) == CAT_OF_MID.add([np.float32(1), torch.tensor(2)])
    assert json.dumps(edit.to_json())
    assert CAT_OF_MID.add(torch.tensor(2.5)) == CAT_OF_MID.add(2.5)
    assert Direction("mid.0", torch.arange(3.0)).vector == (0.0, 1.0, 2.0)
    assert CAT_OF_MID.add(1, steps=np.array([0, 2])) == CAT_OF_MID.add(1, steps=range(2))


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


ADD = {"block": "mid.0", "op": "add", "feature": [1]}

REFUSED = [
    (lambda: Feature("up.9", 1), "Feature: block = 'up.9': should be the name of a block"),
    (lambda: Block("up.١.0"), "Block: block = .* should be the name of a block"),
    (lambda: Block(None), "Block: block = None: should be the name of a block"),
    (lambda: Feature("up.0.1", -1), "Feature: index = -1: should be at least 0"),
    (lambda: Feature("up.0.1", 1.5), "Feature: index = 1.5: should be a whole number"),
    (lambda: Feature("up.0.1", "1"), "Feature: index = '1': should be a whole number"),
    (lambda: Feature("up.0.1", True), "Feature: index = True: should be a whole number, not a truth value"),
    (lambda: Feature("up.0.1", (1, 1)), r"Feature: index = \(1, 1\): should be different ones"),
    (lambda: Feature("up.0.1", ()), r"Feature: index = \(\): should have at least 1 items"),
    (lambda: Feature("up.0.1", [1, None]), r"Feature: index\[1\] = None: should be a whole number"),
    (lambda: Feature("up.0.1", 1, sae="k20"), "Feature: sae = 'k20': should be an SAE"),
    (lambda: CAT.add(math.nan), "Edit: value = nan: should be a finite number"),
    (lambda: CAT.add(10**400), "Edit: value = 1000.*: should be a finite number"),
    (lambda: CAT.add("much"), "Edit: value = 'much': should be a number"),
    (lambda: CAT.add(None), "Edit: value = None: should be a number"),
    (lambda: CAT.add({}), "Edit: value = {}: should be a number"),
    (lambda: CAT.add([]), r"Edit: value = \(\): should have at least 1 items"),
    (lambda: CAT.add([0, 1, math.inf]), r"Edit: value\[2\] = inf: should be a finite number"),
    (lambda: CAT.add([0, "1"]), r"Edit: value\[1\] = '1': should be a number"),
    (lambda: CAT.add([[1, 2]]), r"Edit: value\[0\] = \[1, 2\]: should be a number"),
    (lambda: CAT.add([0.0] * 1001), "Edit: value = .*: should have at most 1,000 items"),
    (lambda: CAT.add(1, unit="percent"), "Edit: unit = 'percent': should be one of 'absolute', 'mean' or"),
    (lambda: CAT.add(1, branch="left"), "Edit: branch = 'left': should be one of 'both', 'cond', 'uncond'"),
    (lambda: CAT.add(1, when=3), "Edit: when = 3: is unknown"),
    (lambda: CAT.add(1, steps=range(0, 4, 2)), r"Edit: steps = range\(0, 4, 2\): .* without a stride"),
    (lambda: CAT.add(1, steps=(3, 1)), r"Edit: steps = \(3, 1\): should be \(first, one past the last\)"),
    (lambda: CAT.add(1, steps=-1), "Edit: steps = -1: should be at least 0"),
    (lambda: CAT.add(1, steps=1.5), "Edit: steps = 1.5: should be a whole number"),
    (lambda: CAT.add(1, steps=(0, math.nan)), r"Edit: steps\[1\] = nan: should be a whole number"),
    (lambda: CAT.add(1, steps=(1, 2, 3)), r"Edit: steps = \(1, 2, 3\): should have at most 2 items"),
    (lambda: CAT.add(1, steps=(1,)), r"Edit: steps\[1\] is missing"),
    (lambda: CAT.add(1, steps="all"), "Edit: steps = 'all': should be a whole number"),
    (lambda: CAT.add(1, above=1), "Edit: above = 1.0: should be of a scale or set edit"),
    (lambda: CAT.scale(2, above="x"), "Edit: above = 'x': should be a number"),
    (lambda: CAT.scale(2, branch="contrast"), "Edit: branch = 'contrast': should be another"),
    (lambda: CAT.replace(2, where="own"), "Edit: where = .*: should be another: 'own' is for"),
    (lambda: CAT.add(1, where=(0, 0, 2, 1)), r"Edit: where.box = \(0, 0, 2, 1\): should be \(left"),
    (lambda: CAT.add(1, where=(0, 0, "1", 1)), r"Edit: where.box\[2\] = '1': should be a number"),
    (lambda: CAT.add(1, where=object()), "Edit: where = .*: should be a box"),
    (lambda: CAT.add(1, where=np.ones((2, 1, 4, 4))),
     r"Edit: where = .*: should have a map for each of the 1"),
    (lambda: Direction("mid.0", [0, 0]).add(1), r"Edit: direction = \(0.0, 0.0\): should not be zero"),
    (lambda: Direction("mid.0", []), r"Direction: vector = \[\]: should have at least 1 items"),
    (lambda: Direction("mid.0", [1, math.nan]), r"Direction: vector\[1\] = nan: should be a finite number"),
    (lambda: Direction("mid.0", [[1, 2]]), r"Direction: vector\[0\] = \[1, 2\]: should be a number"),
    (lambda: Direction("mid.0", 3), "Direction: vector = 3: should be a list of numbers"),
    (lambda: Direction("mid.0", "ab"), "Direction: vector = 'ab': should be a list of numbers"),
    (lambda: Direction("mid.0", [0, 1]).add(1, unit="mean"), "Edit: unit = 'mean': should be of an edit"),
    (lambda: Edit("mid.0", "add"), "Edit: op = 'add': should be an op of update edits: scale, reconstruct"),
    (lambda: Edit("mid.0", 7), "Edit: op = 7: should be a text"),
    (lambda: Edit("mid.0", "scale", unit="mean"), "Edit: unit = 'mean'"),
    (lambda: Edit("mid.0", "add", feature=(1,), direction=(1.0,)), "Edit: direction = .* left out"),
    (lambda: CAT.ablate().__add__(3), "edits = 3: should be edits"),
    (lambda: Edits((CAT,)), "Edits: edits.0. = Feature.*: should be an instance of Edit"),
    (lambda: Edit.from_json({"block": "mid.0"}), "edit: op is missing"),
    (lambda: Edit.from_json([1]), r"edit: \[1\]: should be an object with keys"),
    (lambda: Edit.from_json(ADD | {"colour": 2}), "edit: colour = 2: is unknown"),
    (lambda: Edit.from_json(ADD | {"sae": "x"}), "edit: sae = 'x': is unknown"),
    (lambda: Edit.from_json(ADD | {"feature": []}), r"edit: feature = \[\]: should not be empty"),
    (lambda: Edit.from_json(ADD | {"feature": None}), "edit: feature.* = None: should be a whole number"),
    (lambda: Edit.from_json(ADD | {"where": {"circle": 1}}), "edit: where = {'circle': 1}: should be 'own'"),
    (lambda: Edit.from_json(ADD | {"where": {"box": [0]}}), "edit: where.box"),
    (lambda: Edits.from_json({"version": 99, "edits": []}), "version = 99: should be 1"),
    (lambda: Edits.from_json({"edits": [], "saes": 1}), "saes = 1: is unknown"),
    (lambda: Edits.from_json([ADD, ADD | {"value": "x"}]), r"edit: edits\[1\].value = 'x': should"),
    (lambda: Edits.from_json("add"), "edits = 'add': should be a list of edits"),
    (lambda: Edits.from_json(7), "edits = 7: should be a list of edits"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(FieldError, match=f"^{message}"):
        make()


def test_lists_of_json_nested_deeply_are_refused():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    for change in (
        {"value": nested},
        {"where": nested},
        {"steps": nested},
        {"feature": nested},
        {"op": nested},
    ):
        with pytest.raises(UnboxError):
            Edit.from_json(ADD | change)


def test_names():
    assert CAT.name == "up.0.1/4977"
    assert Feature("mid.0", (1, 2)).name == "mid.0/1,2"
