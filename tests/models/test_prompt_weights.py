"""Weights in prompts, against what the brackets are said to mean."""

import pytest

from unbox.errors import UnboxError
from unbox.models.prompt_weights import weighted_texts

MEANT = {
    "a cat": [("a cat", 1.0)],
    "": [],
    "a (red:1.2) cat": [("a ", 1.0), ("red", 1.2), (" cat", 1.0)],
    "(red)": [("red", 1.1)],
    "[red]": [("red", 1 / 1.1)],
    "((red))": [("red", 1.1 * 1.1)],
    "(a (red:1.5) cat:0.5)": [("a ", 0.5), ("red", 0.75), (" cat", 0.5)],
    r"a \(red\) cat": [("a (red) cat", 1.0)],
    r"a \\ b": [("a \\ b", 1.0)],
    "ratio 16:9": [("ratio 16:9", 1.0)],
    "(ratio 16:9)": [("ratio 16", 9.0)],
    "(a: b)": [("a: b", 1.1)],
    "(red:0)": [("red", 0.0)],
    "(red: .5 ) x": [("red", 0.5), (" x", 1.0)],
    "()": [],
}


@pytest.mark.parametrize("prompt", MEANT)
def test_what_brackets_mean(prompt):
    found = weighted_texts(prompt)
    assert [text for text, _ in found] == [text for text, _ in MEANT[prompt]]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in MEANT[prompt]])


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a (cat", r"has a \( without its end"),
        ("a cat)", r"has a \) without its beginning"),
        ("(cat]", r"has a \] without its beginning"),
        ("[cat", r"has a \[ without its end"),
        ("(cat:-1)", "has the weight -1"),
        ("(cat:11)", "has the weight 11; weights are of 0 to 10"),
        ("((cat:9):9)", "has the weight 81"),
    ],
)
def test_what_does_not_pair_is_refused(prompt, told):
    with pytest.raises(UnboxError, match=told):
        weighted_texts(prompt)


def test_a_prompt_full_of_brackets_takes_no_time():
    depth = 2000
    (only,) = weighted_texts("(" * depth + "[" * depth + "x" + "]" * depth + ")" * depth)
    assert only.text == "x"
    assert only.weight == pytest.approx(1.0)
