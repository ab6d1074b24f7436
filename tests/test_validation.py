"""Fields that are checked: what is taken, what is refused, and what the message says."""

from dataclasses import FrozenInstanceError, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from unbox.errors import FieldError, UnboxError
from unbox.validation import (
    Count,
    FilePath,
    Guidance,
    Real,
    Seed,
    Several,
    Share,
    Side,
    Steps,
    Text,
    behind,
    checked,
    parsed,
    validated,
)


@validated
class Inner:
    k: Count = 1


@validated
class Options:
    steps: Steps | None = None
    sizes: Several[Count] = (10,)
    kind: Literal["a", "b"] = "a"
    flag: bool = False
    out: FilePath = Path("x")
    inner: Several[Inner] = ()

    def __post_init__(self) -> None:
        if self.kind == "b" and self.flag:
            raise UnboxError("b has no flag")


TAKEN = [
    ({"steps": np.int64(3)}, "steps", 3),
    ({"steps": 4.0}, "steps", 4),
    ({"steps": torch.tensor(5)}, "steps", 5),
    ({"sizes": [1, 2]}, "sizes", (1, 2)),
    ({"sizes": range(1, 4)}, "sizes", (1, 2, 3)),
    ({"sizes": np.array([7, 8])}, "sizes", (7, 8)),
    ({"sizes": 9}, "sizes", (9,)),
    ({"out": "a/b"}, "out", Path("a/b")),
    ({"inner": [Inner(k=2)]}, "inner", (Inner(k=2),)),
]


@pytest.mark.parametrize(("given", "name", "value"), TAKEN)
def test_taken(given, name, value):
    found = getattr(Options(**given), name)
    assert found == value
    assert type(found) is type(value)


REFUSED = [
    ({"steps": 0}, "Options: steps = 0: should be at least 1"),
    ({"steps": 1001}, "Options: steps = 1001: should be at most 1,000"),
    ({"steps": 1.5}, "Options: steps = 1.5: should be a whole number"),
    ({"steps": "3"}, "Options: steps = '3': should be a whole number"),
    ({"steps": True}, "Options: steps = True: should be a whole number, not a truth value"),
    ({"steps": float("nan")}, "Options: steps = nan: should be a whole number"),
    ({"steps": float("inf")}, "Options: steps = inf: should be a whole number"),
    ({"steps": Fraction(7, 2)}, "Options: steps = Fraction(7, 2): should be a whole number"),
    ({"steps": 10**5000}, "Options: steps = a number of thousands of digits: should be at most 1,000"),
    ({"sizes": [1, 0]}, "Options: sizes[1] = 0: should be at least 1"),
    ({"kind": "z"}, "Options: kind = 'z': should be one of 'a' or 'b'"),
    ({"flag": 1}, "Options: flag = 1: should be true or false"),
    ({"out": 3}, "Options: out = 3: should be the path of a file or folder"),
    ({"out": "a\0b"}, "Options: out = 'a\\x00b': should be the path of a file or folder"),
    ({"inner": [{"k": 1}]}, "Options: inner[0] = {'k': 1}: should be an instance of Inner"),
    ({"kind": "b", "flag": True}, "b has no flag"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_refused(given, message):
    with pytest.raises(UnboxError) as error:
        Options(**given)
    assert str(error.value) == message
    assert error.value.__cause__ is None


def test_positional_and_replaced_values_are_checked_too():
    with pytest.raises(FieldError, match=r"Options: steps = -1"):
        Options(-1)
    with pytest.raises(FieldError, match=r"Options: steps = -1"):
        replace(Options(), steps=-1)
    with pytest.raises(FrozenInstanceError):
        Options().steps = 3


def test_a_mapping_names_its_door_and_what_is_near():
    assert parsed(Options, {"number": 3}, "a.toml", {"number": "steps"}) == Options(steps=3)
    for given, message in [
        ({"stesp": 3}, "a.toml: stesp = 3: is unknown, is it steps. there are steps, sizes, kind, flag, out"),
        ({"sizes": [0]}, r"a.toml: sizes\[0\] = 0: should be at least 1"),
        ([1], r"a.toml: \[1\]: should be an object with keys"),
        ({"kind": "b", "flag": True}, "a.toml: b has no flag"),
    ]:
        with pytest.raises(UnboxError, match=message):
            parsed(Options, given, "a.toml")

    @validated
    class Needs:
        prompt: Text

    with pytest.raises(FieldError, match=r"^a\.toml: prompt is missing$"):
        parsed(Needs, {}, "a.toml")


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (Seed, [0, 2**64 - 1, np.uint64(2**63)], [-1, 2**64, 0.5, 7.0, np.float32(7), "1", None, True]),
        (Side, [8, 512, 1024], [0, 7, 12, 10**9, -8]),
        (Guidance, [0, 7.5, np.float32(2)], [-1, float("nan"), 1e30, "7", 10**400]),
        (Share, [0, 1, 0.5], [1.01, -0.01, float("nan"), 2**80]),
        (Real, [1e300, -3], [float("inf"), True, "1", None, 1j]),
        (Text, ["a", "a\nb", "👩\u200d🚀", "می\u200cخواهم"], ["\0", "\x1b[2J", "\x85", "\ud800", 3, b"x"]),
    ],
)
def test_rules(rule, good, bad):
    for value in good:
        assert checked(rule, "value", value) == value
    for value in bad:
        with pytest.raises(FieldError, match=r"^here: value = .*: should "):
            checked(rule, "value", value, "here")


def test_messages_are_one_short_line():
    for value in ["x\n" * 10_000, list(range(100_000)), np.zeros(10_000), {i: i for i in range(10_000)}]:
        with pytest.raises(FieldError) as error:
            Options(steps=value)
        assert len(str(error.value)) < 200
        assert "\n" not in str(error.value)


def test_behind():
    with pytest.raises(UnboxError, match=r"^a\.json: no such thing$"), behind("a.json"):
        raise UnboxError("no such thing")
