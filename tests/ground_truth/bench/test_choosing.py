"""How an edit is chosen on trial pictures, and that all that was tried is kept beside what was chosen."""

from types import SimpleNamespace

import pytest

from unbox.ground_truth.bench import causation
from unbox.ground_truth.bench.bench_settings import BenchSettings
from unbox.ground_truth.bench.methods import Joint

STRENGTHS, BLOCKS = (1.0, 3.0), [["a"], ["b"], ["a", "b"]]


def planted(option, strength):
    """Success grows with strength and is best in the block b, flat and of 8 features; 32 of a and b spoil."""
    success = 0.1 * strength + 0.2 * (option.blocks == ["b"]) + 0.1 * (option.spread == "flat")
    return success + 0.1 * (option.size == 8), 0.3 if option.blocks == ["a", "b"] else 0.0


@pytest.fixture
def row(monkeypatch):
    """The row of a value whose trial and test figures are planted; test pictures are less lucky."""

    def points(bench, cases, method, value, option):
        figures = [(s, *planted(option, s)) for s in STRENGTHS]
        names = ("success", "collateral", "artifacts")
        unlucky = 0.0 if cases == "trials" else 0.25
        return [
            {"strength": s, "cases": 5, **dict(zip(names, (good - unlucky, harm, 0.1), strict=True))}
            | {f"{name}_{end}": 0.5 for name in names for end in ("low", "high")}
            for s, good, harm in figures
        ]

    monkeypatch.setattr(causation, "_points", points)
    monkeypatch.setattr(causation, "_joint", lambda *_: Joint(()))
    monkeypatch.setattr(causation, "lacking", lambda cases, value, limit: cases)
    bench = SimpleNamespace(settings=BenchSettings(sizes=(8, 32), strengths=STRENGTHS))
    return causation._choose_change(bench, "sae", ("colour", "red"), BLOCKS, "trials", "tests")


def test_what_was_tried_is_kept_with_its_figures_on_trial_pictures(row):
    options = [
        (["a"], "map", 32), (["b"], "map", 32), (["a", "b"], "map", 32),
        (["b"], "flat", 32), (["b"], "flat", 8),
    ]  # fmt: skip
    expected = [(*option, strength) for option in options for strength in STRENGTHS]
    assert [(t["blocks"], t["spread"], t["size"], t["strength"]) for t in row["trials"]] == expected
    for tried in row["trials"]:
        option = causation.ChangeOption(tried["blocks"], tried["spread"], tried["size"])
        assert (tried["success"], tried["collateral"]) == planted(option, tried["strength"])
        assert tried.keys() == {
            "blocks", "spread", "size", "strength", "success", "collateral", "artifacts", "cases"
        }  # fmt: skip


def test_the_chosen_edit_is_the_best_that_was_tried_and_its_figures_are_of_test_pictures(row):
    best = max((t for t in row["trials"] if t["collateral"] <= 0.1), key=lambda t: t["success"])
    assert {name: row[name] for name in ("blocks", "spread", "size", "strength")} == {
        "blocks": ["b"], "spread": "flat", "size": 8, "strength": 3.0
    }  # fmt: skip
    assert best["strength"] == row["strength"]
    assert row["success"] == pytest.approx(best["success"] - 0.25)
