"""The command line as a user meets it: help, mistakes in one line, Ctrl-C."""

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import get_type_hints

import pytest

import unbox
from activation_store import StoreError
from unbox.cli import main as cli
from unbox.cli.model_options import ModelOptions
from unbox.errors import UnboxError


@dataclass(frozen=True)
class Probe:
    """A command for the tests."""

    blocks: tuple[str, ...] = ("mid.0",)
    """Names of blocks."""
    fault: str = ""
    """What goes wrong."""
    dry_run: bool = False
    """Only look."""

    def run(self) -> int | None:
        if self.fault:
            raise {
                "user": UnboxError("no block 'mid.7';\n there are: mid.0"),
                "store": StoreError("shard 3 is damaged"),
                "disk": PermissionError(13, "Permission denied", "/sealed"),
                "stop": KeyboardInterrupt(),
                "bug": ValueError("a bug"),
            }[self.fault]
        print(self.blocks, self.dry_run)
        return None


@pytest.fixture(autouse=True)
def probe(monkeypatch):
    row = cli.Command("probe", "probe:Probe", "for the tests")
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, row))
    monkeypatch.setitem(sys.modules, "unbox.cli.probe", sys.modules[__name__])


def test_runs_and_fills(capsys):
    assert cli.main(["probe", "--blocks", "up.0.1", "mid.0", "--dry-run"]) == 0
    assert capsys.readouterr().out == "('up.0.1', 'mid.0') True\n"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("user", "unbox: no block 'mid.7'; there are: mid.0\n"),
        ("store", "unbox: shard 3 is damaged\n"),
        ("disk", "unbox: /sealed: Permission denied; choose a place that you may use\n"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(fault, message, capsys):
    assert cli.main(["probe", "--fault", fault]) == 2
    assert capsys.readouterr().err == message


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["probe", "--fault", "bug"])


def test_a_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("UNBOX_TRACEBACK", "1")
    with pytest.raises(UnboxError):
        cli.main(["probe", "--fault", "user"])


def test_ctrl_c_says_how_to_go_on(capsys):
    assert cli.main(["probe", "--fault", "stop"]) == 130
    assert "unbox probe --fault stop" in capsys.readouterr().err


def test_an_unknown_command_names_the_nearest(capsys):
    assert cli.main(["colect", "--store", "x"]) == 2
    assert "did you mean 'unbox collect'?" in capsys.readouterr().err
    assert cli.main(["store", "verfy", "x"]) == 2
    assert "did you mean 'unbox store verify'?" in capsys.readouterr().err
    assert cli.main(["store"]) == 2
    assert "store info, store verify, store repair" in capsys.readouterr().err


def test_an_unknown_option_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe", "--block", "mid.0"])
    assert stop.value.code == 2
    assert "--blocks" in capsys.readouterr().err


def options(form):
    """Name -> help of a command's options, groups of options included; what is positional has no name."""
    found = {}
    for name, kind in get_type_hints(form, include_extras=True).items():
        marks, plain = getattr(kind, "__metadata__", ()), getattr(kind, "__origin__", kind)
        if is_dataclass(plain):
            found |= options(plain)
        elif "Positional" not in repr(marks):
            said = [mark.help for mark in marks if getattr(mark, "help", None)]
            found[name] = " ".join((said[0] if said else documented(form, name)).split())
    return found


def documented(form, name):
    """The docstring under a field, in the class or the nearest of its bases that has one."""
    for owner in form.__mro__[:-1]:
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and field.target.id == name and isinstance(text, ast.Expr):
                return text.value.value
    raise AssertionError(f"{form.__name__}.{name} has no docstring")


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.name)
def test_every_row_has_its_class_and_documents_every_option(command, capsys):
    form = command.form()
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.name.split(), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in options(form):
        name = option.replace("_", "-")
        assert f"--{name} " in shown or f"--no-{name} " in shown
    assert form.__doc__
    assert callable(form.run)


#: Options of one meaning of which commands say more -> the words that every help begins with.
BEGINNINGS = {
    "caption_dropout": "Share of examples",
    "critic_rate": "Learning rate of the critic",
    "full": "Train every weight of the UNet",
    "gradient_accumulation_steps": "Batches whose gradients make one step",
    "noise_offset": "Deviation of what is added to each channel",
    "snr_floor": "Least weight of a timestep",
    "held_out": "Share of the images",
    "keep_steps": "Steps to ",
    "block": "Block of",
    "blocks": "Blocks",
    "branches": "Branches to keep; None: all",
    "captions": "Captions",
    "device": "Where to compute",
    "dtype": "Type of the weights",
    "format": "Their layout",
    "json": "Print JSON",
    "limit": "At most so many",
    "on_bad": "An image with NaN or infinite numbers",
    "prompt": "What the image shows",
    "prompts": "shapes, hub:NAME",
    "saes": "Folder of SAEs",
    "seed": "Seed of",
    "sizes": "Numbers of features tried",
    "what": "What is kept of each",
    "store": "Folder of the store",
    "store_dtype": "Number format of the store",
    "strengths": "Strengths",
    "test_cases": "Other images on which success is measured",
    "tokens": "Rows that each SAE sees",
    "trial_cases": "Images on which",
    "values": "Factor values",
}
#: Options that mean something else in each command, and why.
OF_EACH_COMMAND = {
    "guidance": "of a run, or of the teacher that is learned from",
    "steps": "of a run, or of the student that is trained",
    "teacher_steps": "of the first teacher of several, or of samples for a regression",
    "score_turns": "a turn is of one recipe's loop",
    "snr_gamma": "a weighting that one recipe has by default, or that is asked for",
    "batch_size": "what is computed together are images or rows",
    "data": "what is read are examples of a benchmark, or images to learn",
    "dry_run": "what is planned is a store or a training",
    "methods": "what is compared are ways to bring a value, or to take one out",
    "order": "what has an order are features, or blocks that come to a model",
    "out": "a command writes a folder, a PNG, a store",
    "plan": "a file of a training, or what a run takes",
    "start": "a run begins at a step, a training from weights",
}


def test_an_option_of_one_name_means_one_thing():
    helps = {}
    for command in cli.COMMANDS[:-1]:
        for name, text in options(command.form()).items():
            helps.setdefault(name, set()).add(text)
    several = {name for name, texts in helps.items() if len(texts) > 1}
    assert several == {*BEGINNINGS, *OF_EACH_COMMAND}
    for name, words in BEGINNINGS.items():
        assert [text for text in helps[name] if not text.startswith(words)] == [], name


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [(command, old, new) for command, olds in cli.FORMER_OPTIONS.items() for old, new in olds.items()],
)
def test_an_old_spelling_answers_with_the_new_one(command, old, new, capsys):
    known = {f"--{name.replace('_', '-')}" for name in options(form_of(command))}
    assert old not in known
    assert known >= {word for word in new.split() if word.startswith("--")}
    for words in ([old, "512"], [f"{old}=512"]):
        assert cli.main([*command.split(), *words]) == 2
        assert capsys.readouterr().err == f"unbox: {old} is now {new}; see `unbox {command} --help`\n"


def calls_load(form):
    """Whether a command's class loads a model: by its options, or by `unbox.models.load` itself."""
    classes = [kind for kind in form.__mro__ if kind.__module__.startswith("unbox.cli")]
    tree = ast.parse("\n".join(textwrap.dedent(inspect.getsource(kind)) for kind in classes))
    named = {node.attr if isinstance(node, ast.Attribute) else node.name
             for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.alias)}  # fmt: skip
    return "load" in named


def test_every_command_that_loads_a_model_takes_all_its_options():
    loading = [command for command in cli.COMMANDS[:-1] if calls_load(command.form())]
    assert len(loading) >= 6
    for command in loading:
        kinds = get_type_hints(command.form())
        assert kinds.get("model") is ModelOptions, command.name
    for command in cli.COMMANDS[:-1]:
        assert ("model" in get_type_hints(command.form())) == (command in loading), command.name


def test_models_are_loaded_from_the_command_line_in_one_place():
    """What commands call in experiments and ground_truth takes a loaded model."""
    for room in ("cli", "experiments", "ground_truth"):
        for path in (Path(unbox.__file__).parent / room).rglob("*.py"):
            if path.name != "model_options.py":
                assert not re.search(r"from unbox.models(.load)? import .*\bload\b", path.read_text()), path


def test_command_classes_are_named_after_what_is_typed():
    forms = [command.form().__name__ for command in cli.COMMANDS[:-1]]
    typed = [re.sub("[ -]", "", command.name) + "command" for command in cli.COMMANDS[:-1]]
    assert [name.lower() for name in forms] == typed
    assert len(set(forms)) == len(forms)


def form_of(name):
    return next(command.form() for command in cli.COMMANDS if command.name == name)


def test_help_waits_for_no_large_library():
    """A tenth of a second on an idle machine; torch alone takes two."""
    large = {"torch", "diffusers", "transformers", "gradio", "matplotlib", "scipy"}
    line = f"import sys; from unbox.cli.main import main; main(['--help']); print({large} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert all(command.name in done.stdout for command in cli.COMMANDS[:-1])
    assert done.stdout.splitlines()[-1] == "set()"


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("unbox 0.")


def test_public_names_exist():
    for name in unbox.__all__:
        assert getattr(unbox, name) is not None
    with pytest.raises(AttributeError, match=r"it has .*load_saes"):
        unbox.loda  # noqa: B018
