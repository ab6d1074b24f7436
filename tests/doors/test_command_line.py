"""Every option of every command, read from the code, with words of every kind: a line of refusal that names
the option, or the work begins. No model is loaded, and memory stays bounded."""

import dataclasses
import typing
from collections.abc import Iterator
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doors.values import JSON_VALUES, NUMBERS, TEXTS, THROW, bounded_memory
from unbox.cli.main import COMMANDS, main
from unbox.cli.repeated_options import with_options

#: The shortest line of each command that begins its work; {} is the folder of examples, {new} is not there.
LINES = {
    "demo": "--out {new}",
    "models": "",
    "verify": "{}/model --out {new}.html",
    "collect": "--model {}/model --prompts {}/prompts.txt --store {new} --blocks mid.0",
    "store info": "{}/store",
    "store verify": "{}/store",
    "store repair": "{}/store",
    "store upgrade": "{}/store",
    "store merge": "{}/store --out {new}",
    "store subset": "{}/store --out {new}",
    "train": "--store {}/store --out {new}",
    "evaluate": "--saes {}/saes --store {}/store",
    "atlas": "--saes {}/saes --store {}/store --out {new} --model none",
    "features": "--atlas {}/atlas",
    "label": "--atlas {}/atlas --endpoint http://localhost:9/v1 --endpoint-model x",
    "app": "--model {}/model",
    "generate": "--model {}/model --prompt cat --seed 1 --out {new}.png",
    "invert": "{}/image.png --model {}/model --out {new}.png",
    "erase": "3 --store {}/store --saes {}/saes --out {new}.json --percentile 50",
    "diff": "--models {}/model {}/model,name=b --prompts {}/prompts.txt --out {new} --blocks mid.0",
    "experiment": "{}/experiment.toml --out {new}",
    "bench shapes": "--saes {}/saes --out {new}",
    "bench erasure": "--saes {}/saes --out {new}",
    "bench riebench": "--data {}/riebench.json --saes {}/saes --out {new}",
    "recipe shapes": "--out {new}",
    "recipe sdxl": "--model {}/model --data shapes --limit 4 --out {new}",
    "recipe turbo": "--model {}/model --data shapes --limit 4 --out {new}",
    "recipe lightning": "--model {}/model --data shapes --limit 4 --out {new}",
    "recipe novelai": "--model {}/model --data shapes --limit 4 --out {new}",
    "recipe ncp": "--model {}/model --data shapes --limit 4 --losers shapes --out {new}",
    "recipe distar": "--model {}/model --data shapes --limit 4 --out {new}",
    "recipe real-size": "--out {new}",
    "sae info": "{}/saes",
    "sae import": "{}/saes --out {new}",
    "sae export": "--saes {}/saes --out {new} --format sdxl-unbox",
    "store add-blocks": "{}/store --model {}/model --blocks mid.0",
    "store push": "{}/store a/b",
    "store pull": "a/b --out {new}",
    "sae push": "a/b --saes {}/saes",
    "sae pull": "a/b --out {new}",
}


class WorkBegins(BaseException):
    """The door is passed."""


def options(form: type) -> Iterator[tuple[str, bool]]:
    """Every option of a command's class and of its groups, and whether it is a switch."""
    hints = typing.get_type_hints(form, include_extras=True)
    for field in dataclasses.fields(form):
        hint = hints[field.name]
        plain = hint.__origin__ if typing.get_origin(hint) is typing.Annotated else hint
        if dataclasses.is_dataclass(plain):
            yield from options(typing.cast(type, plain))
        else:
            yield field.name, plain is bool


def words() -> st.SearchStrategy[str]:
    """What can be typed: no zero byte goes through a command line."""
    typed = st.one_of(NUMBERS.map(_written), TEXTS, JSON_VALUES.map(_written))
    return typed.map(lambda text: text.replace("\0", "").encode("utf-8", "replace").decode())


def _written(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # a number of thousands of digits
        return "9" * 5000


@pytest.fixture
def _no_work(monkeypatch):
    """Where work begins, it ends."""

    def begins(*_given: object, **_options: object) -> None:
        raise WorkBegins

    for module, name in (
        ("unbox.models.load", "_Base"),
        ("unbox.sae.train", "TrainingRun"),
        ("unbox.recipes.shapes.run_stage", "make_models"),
        ("unbox.models.real_size", "write_random"),
        ("unbox.atlas.build", "build"),
        ("urllib.request", "urlopen"),
        ("torch", "set_num_threads"),
    ):
        monkeypatch.setattr(import_module(module), name, begins)


def test_every_command_has_a_line():
    assert set(LINES) == {command.name for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
@pytest.mark.usefixtures("_no_work")
def test_every_option(command, made, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = dict(options(command.form()))

    @THROW
    @given(name=st.sampled_from(sorted(names)), values=st.lists(words(), min_size=1, max_size=2))
    def throw(name, values):
        capsys.readouterr()
        before = sorted(made.rglob("*"))
        fixed = LINES[command.name].replace("{new}", str(tmp_path / "new")).replace("{}", str(made)).split()
        option = f"--{name.replace('_', '-')}"
        line = [*command.name.split(), *with_options(fixed, [option, *([] if names[name] else values)])]
        try:
            with bounded_memory():
                code = main(line)
        except (WorkBegins, SystemExit) as end:
            code = 0 if isinstance(end, WorkBegins) else end.code
        told = capsys.readouterr().err
        assert code in (0, 1, 2)
        assert "Traceback" not in told
        if code == 2:
            assert told.strip()
            assert len(told) < 50_000
        assert sorted(made.rglob("*")) == before

    throw()
