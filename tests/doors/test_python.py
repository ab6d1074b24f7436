"""Every argument of every public function, read from the code, with values of every kind: an UnboxError that
names the argument, or the work begins."""

import inspect
import os
import warnings
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unbox
from tests.doors.values import PYTHON_VALUES, THROW, bounded_memory, check_message
from unbox.errors import UnboxError

#: Arguments that are objects of ours or of torch: what is no such object is a fault of the program's.
OBJECTS = {"self", "model", "sae", "saes", "store", "edits", "hooks", "callback", "progress", "meta", "error"}
#: Functions, and what they are called with.
CALLS = {
    "load": lambda x: ((f"{x.made}/model",), {}),
    "collect": lambda x: ((x.model, ["a cat"], x.new()), {"blocks": ("mid.0",), "progress": False}),
    "record": lambda x: ((x.model,), {"blocks": ("mid.0",)}),
    "fit": lambda x: ((np.zeros((64, 8), np.float32),), {"k": 2, "latents": 16, "progress": False}),
    "evaluate": lambda x: ((x.sae, np.ones((64, x.sae.W_dec.shape[1]), np.float32)), {}),
    "load_saes": lambda x: ((f"{x.made}/saes",), {}),
    "Model.generate": lambda x: ((x.model, "a cat"), {}),
    "Feature": lambda x: ((), {"block": "mid.0", "index": 3}),
    "Feature.add": lambda x: ((unbox.Feature("mid.0", 3), 1.0), {}),
    "Feature.scale": lambda x: ((unbox.Feature("mid.0", 3), 1.0), {}),
    "Feature.set": lambda x: ((unbox.Feature("mid.0", 3), 1.0), {}),
    "Edit": lambda x: ((), {"block": "mid.0", "op": "scale"}),
    "Prompt": lambda x: (("a cat",), {}),
    "Mask.of": lambda x: (((0.0, 0.0, 1.0, 1.0),), {}),
}


class WorkBegins(BaseException):
    """The door is passed."""


def function(name):
    """The callable of a dotted name, from where users import it."""
    home = {"Model": "unbox.models", "Mask": "unbox.mask"}.get(name.split(".")[0], "unbox")
    found = import_module(home)
    for part in name.split("."):
        found = getattr(found, part)
    return found


class Examples:
    """What the calls are made with, loaded once."""

    def __init__(self, made, folder):
        self.made, self._folder, self._count = made, folder, 0
        self.model = unbox.load(f"{made}/model")
        self.sae = next(iter(unbox.load_saes(made / "saes").values()))

    def new(self):
        self._count += 1
        return self._folder / str(self._count)


@pytest.fixture(scope="module")
def examples(made, tmp_path_factory):
    return Examples(made, tmp_path_factory.mktemp("new"))


@pytest.fixture
def _no_work(monkeypatch, examples):
    def begins(*_given, **_options):
        raise WorkBegins

    for module, name in (
        ("unbox.models.load", "_Base"),
        ("unbox.models.generate", "_sample"),
        ("unbox.sae.fit", "TrainingRun"),
    ):
        monkeypatch.setattr(import_module(module), name, begins)


def test_every_public_function_is_called():
    """A name that `unbox` offers and that can be called has its row above."""
    values = {"Edits", "SAE", "Store", "UnboxError", "bind"}  # made of the others, or of files
    offered = {name for name in unbox.__all__ if callable(getattr(unbox, name))} - values
    assert offered <= set(CALLS)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.usefixtures("_no_work")
def test_every_argument(name, examples):
    target = function(name)
    parameters = inspect.signature(target).parameters
    fixed = len(CALLS[name](examples)[0])
    names = [
        each.name
        for each in list(parameters.values())[fixed:]
        if each.name not in OBJECTS and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if not names:
        pytest.skip("takes objects only")

    @THROW
    @given(argument=st.sampled_from(names), value=PYTHON_VALUES)
    def throw(argument, value):
        before = os.environ.copy()
        args, options = CALLS[name](examples)
        options |= {argument: value}
        try:
            with bounded_memory(), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a prompt over the tokenizer's length, say
                result = target(*args, **options)
                if hasattr(result, "__enter__"):
                    with result:
                        pass
        except UnboxError as error:
            check_message(error, argument)
        except WorkBegins:
            pass
        assert os.environ == before

    throw()
