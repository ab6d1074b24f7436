"""A model is opened the same way by every command that opens one."""

from dataclasses import fields

import pytest

import unbox
from tests.doors.test_command_line import options
from unbox.cli.main import COMMANDS, find, parse
from unbox.cli.model_options import ModelOptions

NAMES = {field.name for field in fields(ModelOptions)}
LOADING = [command for command in COMMANDS if "model" in dict(options(command.form()))]


def test_what_loads_a_model_is_known():
    names = {command.name for command in LOADING}
    assert names >= {
        "app",
        "bench shapes",
        "bench riebench",
        "experiment",
        "generate",
        "invert",
        "collect",
        "verify",
    }


@pytest.mark.parametrize("command", LOADING, ids=lambda command: command.name)
def test_every_command_that_opens_a_model_has_all_ways_to(command):
    """A LoRA, a single file with its configuration, a UNet, offload, a type: see `ModelOptions`."""
    assert set(dict(options(command.form()))) >= NAMES


def test_the_line_and_the_python_open_the_same_model(monkeypatch):
    words = "app --model base --lora a/style.safetensors --offload model --dtype float16 --system sdxl-turbo"
    form = parse(*find(f"{words} --offline --device cpu".split()))
    assert form.model == parse(*find(["app", *form.model.line().split()])).model
    found = []
    monkeypatch.setattr(unbox, "load", lambda *args, **given: found.append((args, given)), raising=False)
    eval(form.model.python(), {"unbox": unbox})
    given = {"lora": "a/style.safetensors", "offload": "model", "dtype": "float16", "system": "sdxl-turbo"}
    assert found == [(("base",), given)]
