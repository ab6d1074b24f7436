"""The command `unbox`: finds the command's class, fills it from the command line, runs it.

A command is a frozen dataclass with a docstring under each field and a method `run`, and a row here. The
class is imported only when its command is asked for, so `unbox --help` stays quick.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple

from unbox.errors import UnboxError

#: Exit codes: a user's mistake, and a stop by Ctrl-C (128 + SIGINT).
MISTAKE, STOPPED = 2, 130


class Command(NamedTuple):
    """One row: what is typed after `unbox` (one or two words), `module:Class`, and what it is for."""

    name: str
    target: str
    about: str


COMMANDS = (
    Command("demo", "unbox.cli.demo:Demo", "the whole path on the bundled model, ending in a report"),
    Command("models", "unbox.cli.models:Models", "the systems, what each needs, what is present here"),
    Command("collect", "unbox.cli.collect:Collect", "record block updates of many images into a store"),
    Command("store info", "unbox.cli.store:Info", "what a store holds"),
    Command("store verify", "unbox.cli.store:Verify", "read every byte of a store against its digests"),
    Command("store repair", "unbox.cli.store:Repair", "set aside what is damaged; collect then redoes it"),
    Command("store merge", "unbox.cli.store:Merge", "make one store of several"),
    Command("store subset", "unbox.cli.store:Subset", "copy some blocks, steps, branches or images"),
    Command("train", "unbox.cli.train:Train", "fit sparse autoencoders to a store"),
    Command("evaluate", "unbox.cli.evaluate:Evaluate", "held-out figures by block, step and branch"),
    Command("atlas", "unbox.cli.atlas:Atlas", "learn what the features mean: examples, words, relations"),
    Command("features", "unbox.cli.features:Features", "search an atlas, or tell about one feature"),
    Command("label", "unbox.cli.label:Label", "labels by a vision-language model, each tested"),
    Command("app", "unbox.cli.app:App", "the explorer: look at features and paint with them"),
    Command("generate", "unbox.cli.generate:Generate", "make images, with or without edits"),
    Command("invert", "unbox.cli.invert:Invert", "your own image: how faithful, its features, edits on it"),
    Command("experiment", "unbox.cli.experiment:Experiment", "run a sweep of edits from a TOML file"),
    Command("bench shapes", "unbox.cli.bench:Shapes", "do features mean and cause what they seem to?"),
    Command("bench riebench", "unbox.cli.bench:Riebench", "edits between prompts, RIEBench's protocol"),
    Command("recipe shapes-turbo", "unbox.cli.recipe_shapes:ShapesTurbo", "train the bundled models again"),
    Command("recipe real-size", "unbox.cli.recipe_real_size:RealSize", "SDXL's real size, random weights"),
    Command("sae info", "unbox.cli.sae:Info", "what a folder of autoencoders holds"),
    Command("sae import", "unbox.cli.sae:Import", "read the published checkpoints"),
    Command("sae export", "unbox.cli.sae:Export", "write the published checkpoints' layout"),
    Command("sae push", "unbox.cli.sae:Push", "upload autoencoders to the Hub, each with its card"),
    Command("sae pull", "unbox.cli.sae:Pull", "download autoencoders from the Hub"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line (default: the process's own); returns its exit code and never a traceback
    for a user's mistake. `UNBOX_TRACEBACK=1` shows where a mistake was noticed."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return run(words)
    except KeyboardInterrupt:
        print(
            f"\nStopped. What was finished is kept; to go on: {shlex.join(['unbox', *words])}",
            file=sys.stderr,
        )
        return STOPPED
    except (ValueError, OSError) as error:
        if not is_mistake(error) or os.environ.get("UNBOX_TRACEBACK"):
            raise
        print("unbox:", " ".join(str(error).split()), file=sys.stderr)
        return MISTAKE


def run(words: Sequence[str]) -> int:
    """The exit code of one command line. Raises UnboxError for an unknown command."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"unbox {import_module('importlib.metadata').version('unbox')}")
        return 0
    if words[-1] in ("-h", "--help") and len(words) == 2 and (rows := group(words[0])):
        print(overview(rows))
        return 0
    command, rest = find(words)
    return parse(command, rest).run() or 0


def find(words: Sequence[str]) -> tuple[Command, list[str]]:
    """The row that the first one or two words name, and the words after it."""
    for command in COMMANDS:
        name = command.name.split()
        if list(words[: len(name)]) == name:
            return command, list(words[len(name) :])
    rows = group(words[0])
    asked = " ".join(words[: 2 if rows else 1])
    known = [command.name for command in rows or COMMANDS]
    near = get_close_matches(asked, known, n=1, cutoff=0.5)
    hint = f"did you mean 'unbox {near[0]}'? " if near else ""
    raise UnboxError(f"no command 'unbox {asked}'; {hint}There are: {', '.join(known)}")


def group(word: str) -> tuple[Command, ...]:
    """The rows whose first of two words this is."""
    return tuple(command for command in COMMANDS if command.name.startswith(f"{word} "))


def parse(command: Command, rest: Sequence[str]) -> Any:
    """The command's dataclass, filled. An unknown option exits with code 2 and names the nearest."""
    import tyro

    module, name = command.target.split(":")
    flags = (tyro.conf.FlagCreatePairsOff,)
    return tyro.cli(
        getattr(import_module(module), name), args=rest, prog=f"unbox {command.name}", config=flags
    )


def is_mistake(error: Exception) -> bool:
    """True for what a message answers better than a traceback: our own errors, and the system's refusals
    (a missing file, a full disk, a folder that cannot be written)."""
    if isinstance(error, UnboxError | OSError):
        return True
    return isinstance(error, import_module("activation_store").StoreError)


def overview(rows: Sequence[Command] = COMMANDS) -> str:
    """The list of commands, one a line."""
    width = max(len(row.name) for row in rows)
    lines = [f"  {row.name:{width}}  {row.about}" for row in rows]
    return "\n".join(
        ["usage: unbox COMMAND [options]", "", *lines, "", "`unbox COMMAND --help` documents each."]
    )
