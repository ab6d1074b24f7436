"""The endpoints' arguments: each has a rule, what breaks it is named before a model runs."""

import inspect
import json
import subprocess
import sys

import gradio as gr
import pytest

from unbox.errors import FieldError, UnboxError
from unbox.explorer.api import RULES, Endpoints, with_rules
from unbox.explorer.interface import call_when_closed, serve

NAN, HUGE = float("nan"), 10**400
EDIT = {"block": "mid.0", "feature": [1], "op": "add", "value": 50}


def test_every_argument_has_a_rule():
    named = {
        name
        for function, _ in Endpoints(None).table().values()
        for name in inspect.signature(function).parameters
    }
    assert named == set(RULES)


WRONG = {
    "prompt": [None, 7, [], {}, "x" * 2001, "\0", "\ud800"],
    "seed": [-1, 2**64, 0.5, 7.0, NAN, HUGE, "7", None, True, [1]],
    "steps": [-1, 101, 2.5, NAN, HUGE, "4", None, True],
    "system": [None, 7, "x" * 201, "\x1b"],
    "edits": [7, "x", [7], [{}], [EDIT] * 65, [EDIT | {"value": NAN}], [EDIT | {"value": 1e7}],
              [EDIT | {"value": [1] * 1001}], [EDIT | {"feature": list(range(65))}], {"edits": 3},
              [EDIT | {"where": {"shape": [6000, 6000], "dtype": "u1", "zlib": ""}}],
              [EDIT | {"where": {"shape": "x"}}], [EDIT | {"where": {"shape": [HUGE, 1]}}]],
    "count": [0, 201, 1.5, NAN, "3", None], "limit": [0, 10**9, None],
    "x": [-0.1, 1, NAN, 1e308, "0", None, True], "y": [-1, 1.0, [0]],
    "recipe": [None, [], "x", 3], "other": [None, [], "x", 3], "control": [None, 0, "yes"],
    "name": [None, 7, "x" * 201, "\0"], "kind": [None, 7], "interval": [-2, 100, 0.5, None, "1"],
    "words": [7, "x" * 301, "\0"], "by": ["sql", None, 3], "block": [None, 7],
    "text": [None, "x" * 201, "\0"], "author": [None, "x" * 201],
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_what_breaks_a_rule_is_named(name):
    for endpoint, (function, _) in Endpoints(None).table().items():
        parameters = inspect.signature(function).parameters
        if name not in parameters:
            continue
        good = {"prompt": "a", "x": 0.5, "y": 0.5, "recipe": {}, "other": {}, "name": "mid.0/1", "words": "a",
                "text": "a", "author": "me"}  # fmt: skip
        given = {n: good[n] for n in parameters if n in good}
        for value in WRONG[name]:
            with pytest.raises(FieldError, match=f"^{endpoint}: {name}") as error:
                with_rules(endpoint, function)(**given | {name: value})
            assert len(str(error.value)) < 300


def test_endpoints_take_what_fits(session):
    table = Endpoints(session).table()
    made = with_rules("generate", table["generate"][0])("a red cat", 7, 0, "", [])
    assert made["recipe"]["steps"] == 2
    found = with_rules("features_at", table["features_at"][0])("a red cat", 0, 0.999, count=2)
    assert [len(rows) for rows in found.values()] == [2, 2]
    with pytest.raises(UnboxError, match=r"recipe: prompt is missing"):
        with_rules("edit", table["edit"][0])({"system": "tiny", "seed": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"host": ""}, "host = ''"), ({"host": "a b"}, "host = 'a b'"), ({"host": "http://x"}, "host"),
        ({"host": "-x"}, "host"), ({"host": None}, "host = None"), ({"host": "x" * 300}, "host"),
        ({"port": 99_999_999}, "port = 99999999: should be less than 65,536"), ({"port": 0}, "port = 0"),
        ({"port": "80"}, "port = '80'"), ({"password": ""}, "password = ''"), ({"password": 7}, "password"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_is_named_before_anything_is_served(change, message):
    with pytest.raises(FieldError, match=f"^serve: {message}"):
        serve(None, **change)


@pytest.mark.slow
def test_torch_has_its_threads_again_when_nothing_is_served_any_more(home):
    """In a process of its own: Gradio leaves sockets and an event loop behind."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.explorer.served_threads", str(home / "tiny")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"refused": 3, "served": 1, "closed": 3}


def test_closing_an_app_calls_back():
    with gr.Blocks() as app:
        pass
    called = []
    call_when_closed(app, lambda: called.append(True))
    assert not called
    app.close()
    assert called == [True]
