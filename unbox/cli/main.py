"""The command `unbox`: finds the command's class, fills it from the command line, runs it.

A command is a frozen dataclass with a docstring under each field and a method `run`, and a row here. The
class is imported only when its command is asked for, so `unbox --help` stays quick.
"""

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol, get_type_hints

from unbox import memory_limit
from unbox.cli import output
from unbox.cli.after_stop import after_stop
from unbox.errors import FieldError, UnboxError, system_message
from unbox.model_mismatch import ModelMismatchWarning
from unbox.stopping import Stopped, consequences, stopping

if TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry, UnsupportedTypeAnnotationError

#: Exit codes: a user's mistake, an interrupt that no signal brought (128 + SIGINT), and output that nobody
#: reads any more (128 + SIGPIPE).
MISTAKE, INTERRUPTED, UNREAD = 2, 130, 141


class Runnable(Protocol):
    """A command's dataclass, filled from the command line."""

    def run(self) -> int | None:
        """Do it; returns the exit code, None for 0."""
        ...


class Command(NamedTuple):
    """One row: what is typed after `unbox` (one or two words), `module:Class`, and what it is for."""

    name: str
    target: str
    about: str

    def form(self) -> type[Runnable]:
        """The command's dataclass."""
        module, name = self.target.split(":")
        form: type[Runnable] = getattr(import_module(f"unbox.cli.{module}"), name)
        return form


COMMANDS = (
    Command("demo", "demo:DemoCommand", "the whole path on the bundled model, ending in a report"),
    Command("models", "models:ModelsCommand", "the systems, what each needs, what is present here"),
    Command("verify", "verify:VerifyCommand", "does it do right here with these weights? a page of evidence"),
    Command("collect", "collect:CollectCommand", "record block updates of many images into a store"),
    Command("store info", "store:StoreInfoCommand", "what a store holds"),
    Command("store verify", "store:StoreVerifyCommand", "read every byte of a store against its digests"),
    Command("store repair", "store:StoreRepairCommand", "set aside what is damaged; collect then redoes it"),
    Command("store merge", "store:StoreMergeCommand", "make one store of several"),
    Command("store upgrade", "store:StoreUpgradeCommand", "bring a store of a version before up to date"),
    Command("store subset", "store:StoreSubsetCommand", "copy some blocks, steps, branches or images"),
    Command("store add-blocks", "store:StoreAddBlocksCommand", "record further blocks of its images"),
    Command("store push", "store:StorePushCommand", "upload a store to the Hugging Face Hub"),
    Command("store pull", "store:StorePullCommand", "copy a store from the Hub or any URL"),
    Command("train", "train:TrainCommand", "fit sparse autoencoders to a store"),
    Command("evaluate", "evaluate:EvaluateCommand", "held-out figures by block, step and branch"),
    Command("atlas", "atlas:AtlasCommand", "learn what the features mean: examples, words, relations"),
    Command("features", "features:FeaturesCommand", "search an atlas, or tell about one feature"),
    Command("label", "label:LabelCommand", "labels by a vision-language model, each tested"),
    Command("app", "app:AppCommand", "the explorer: look at features and paint with them"),
    Command("generate", "generate:GenerateCommand", "make images, with or without edits"),
    Command("invert", "invert:InvertCommand", "your own image: how faithful, its features, edits on it"),
    Command("erase", "erase:EraseCommand", "edits that take concepts out, chosen from a store"),
    Command("diff", "diff:DiffCommand", "which features did a training move? systems side by side"),
    Command("experiment", "experiment:ExperimentCommand", "run a sweep of edits from a TOML file"),
    Command("bench shapes", "bench:BenchShapesCommand", "do features mean and cause what they seem to?"),
    Command("bench erasure", "bench:BenchErasureCommand", "ways to take a value out: gone, kept, spoilt"),
    Command("bench riebench", "bench:BenchRiebenchCommand", "edits between prompts, RIEBench's protocol"),
    Command("recipe shapes", "recipe:RecipeShapesCommand", "train a Shapes model, block by block"),
    Command("recipe sdxl", "recipe_sdxl:RecipeSdxlCommand", "train a LoRA or a UNet on images of your own"),
    Command("recipe turbo", "recipe_methods:RecipeTurboCommand", "ADD: a few-step student and a critic"),
    Command("recipe lightning", "recipe_methods:RecipeLightningCommand", "fewer steps, stage by stage"),
    Command("recipe novelai", "recipe_methods:RecipeNovelaiCommand", "v under zero terminal SNR"),
    Command("recipe ncp", "recipe_methods:RecipeNcpCommand", "preference in a UNet's perception"),
    Command("recipe distar", "recipe_methods:RecipeDistarCommand", "one step, near scores, towards a reward"),
    Command("recipe real-size", "recipe:RecipeRealSizeCommand", "SDXL's real size, random weights"),
    Command("sae info", "sae:SAEInfoCommand", "what a folder of autoencoders holds"),
    Command("sae import", "sae:SAEImportCommand", "read the published checkpoints"),
    Command("sae export", "sae:SAEExportCommand", "write the published checkpoints' layout"),
    Command("sae push", "sae:SAEPushCommand", "upload autoencoders to the Hub, each with its card"),
    Command("sae pull", "sae:SAEPullCommand", "download autoencoders from the Hub"),
)


#: Command -> an option's old name -> what to type now.
FORMER_OPTIONS = {
    "generate": {"--size": "--height and --width", "--negative": "--negative-prompt"},
    "invert": {"--size": "--height and --width", "--top": "--limit"},
    "features": {"--meaning": "--model"},
    "label": {"--model": "--endpoint-model"},
    "store subset": {
        "--dtype": "--store-dtype",
        "--start": "--samples",
        "--stop": "--samples",
        "--steps": "--keep-steps",
    },
    "train": {"--clip": "--clip-norm", "--start": "--init"},
    "bench shapes": {"--prompts": "--captions"},
    "bench riebench": {"--clip": "--clip-model"},
    "demo": {
        "--prompts": "--captions",
        "--heldout": "--held-out-captions",
        "--features": "--sizes",
        "--trial": "--trial-cases",
        "--test": "--test-cases",
        "--targets": "--values",
    },
}

#: Package that not every command needs -> the extra that installs it.
EXTRAS = {"gradio": "app", "numba": "cpu", "skimage": "metrics", "datasets": "data", "pyarrow": "data"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line (default: the process's own); returns its exit code and never a traceback
    for a user's mistake. `UNBOX_TRACEBACK=1` shows where a mistake was noticed."""
    with stopping():
        try:
            return answer(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            output.refused()


def answer(typed: Sequence[str]) -> int:
    """The exit code of one command line; a mistake, a stop and a warning of ours are told in one line."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(show_warning, warnings.showwarning)
            warnings.simplefilter("always", ModelMismatchWarning)
            code = run(typed)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as stop:
        notes = getattr(stop, "__notes__", [after_stop("", False, typed)])  # none: not begun yet
        with suppress(OSError):  # the terminal may be gone
            if os.environ.get("RANK", "0") in ("", "0"):
                print(f"\nStopped. {notes[0]}", file=sys.stderr, flush=True)
        return stop.code if isinstance(stop, Stopped) else INTERRUPTED
    except ModuleNotFoundError as error:
        if (extra := EXTRAS.get(error.name or "")) is None:
            raise
        message = f"this needs {error.name}, which is not installed: pip install 'unbox[{extra}]'"
    except mistakes() as error:
        if isinstance(error, BrokenPipeError) and output.unread():
            return UNREAD
        if os.environ.get("UNBOX_TRACEBACK"):
            raise
        message = str(error)
        if isinstance(error, OSError):
            message = ("standard output: " if output.refused(error) else "") + system_message(error)
        message = " ".join(message.split())
    with suppress(OSError):
        print("unbox:", message, file=sys.stderr)
    return MISTAKE


def run(typed: Sequence[str], before: Sequence[str] = ()) -> int:
    """The exit code of one command line; `before`: what was typed before these words.

    Raises UnboxError for an unknown command or an option's old name.
    """
    if not typed or typed[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if typed[0] == "--version":
        print(f"unbox {import_module('unbox.installed_versions').version('unbox')}")
        return 0
    if typed[-1] in ("-h", "--help") and len(typed) == 2 and (rows := group(typed[0])):
        print(overview(rows))
        return 0
    if typed[0].split("=")[0] == memory_limit.OPTION:
        return limited(typed)
    command, rest = find(typed)
    former = FORMER_OPTIONS.get(command.name, {})
    if old := next((word for word in (each.split("=")[0] for each in rest) if word in former), None):
        raise UnboxError(f"{old} is now {former[old]}; see `unbox {command.name} --help`")
    from unbox.cli.idle_options import refuse_idle
    from unbox.cli.repeated_options import refuse_repeated, several_loras, with_options

    rest = several_loras(rest)
    refuse_repeated(command.name, rest)
    form = parse(command, rest)
    refuse_idle(command.name, rest, form)
    try:
        with consequences():
            return form.run() or 0
    except KeyboardInterrupt as stop:
        more = stop.options if isinstance(stop, Stopped) else ()
        line = [*before, *with_options(typed, more)]
        stop.add_note(after_stop(command.name, getattr(form, "writes", True), line))
        raise


def show_warning(
    usual: Callable[..., None], message: Warning | str, category: type[Warning], *place: Any
) -> None:
    """A warning of ours as a line of the command; others as `usual`."""
    if issubclass(category, ModelMismatchWarning):
        print("unbox: warning:", message, file=sys.stderr)
    else:
        usual(message, category, *place)


def limited(typed: Sequence[str]) -> int:
    """The exit code of a command line that begins with the memory that one request may take."""
    name, joined, size = typed[0].partition("=")
    size, rest = (size, typed[1:]) if joined else ("".join(typed[1:2]), typed[2:])
    with memory_limit.limited(size, name):
        return run(rest, typed[: len(typed) - len(rest)])


def find(typed: Sequence[str]) -> tuple[Command, list[str]]:
    """The row that the first one or two words name, and the words after it."""
    for command in COMMANDS:
        name = command.name.split()
        if list(typed[: len(name)]) == name:
            return command, list(typed[len(name) :])
    rows = group(typed[0])
    asked = " ".join(typed[: 2 if rows else 1])
    known = [command.name for command in rows or COMMANDS]
    near = get_close_matches(asked, known, n=1, cutoff=0.5)
    hint = f"did you mean 'unbox {near[0]}'? " if near else ""
    raise UnboxError(f"no command 'unbox {asked}'; {hint}There are: {', '.join(known)}")


def group(word: str) -> tuple[Command, ...]:
    """The rows whose first of two words this is."""
    return tuple(command for command in COMMANDS if command.name.startswith(f"{word} "))


def parse(command: Command, rest: Sequence[str]) -> Runnable:
    """The command's dataclass, filled. An unknown option exits with code 2 and names the nearest.

    Raises FieldError, whose field is the option, for a value that breaks its rule.
    """
    import tyro

    form = command.form()

    # A function, because tyro takes the errors that a class raises for its own and prints them otherwise.
    def filled(given: Runnable) -> Runnable:
        return given

    filled.__annotations__["given"] = Annotated[form, tyro.conf.arg(name="")]
    name, config = f"unbox {command.name}", (tyro.conf.FlagCreatePairsOff,)
    about = inspect.getdoc(form)
    try:
        return tyro.cli(filled, args=rest, prog=name, description=about, config=config, registry=registry())
    except SystemExit:
        sys.stdout.flush()  # the help: here, where a reader who is gone is no error
        raise
    except FieldError as error:
        raise FieldError("", option(form, error.field), error.value, error.rule) from error


def option(form: type[Runnable], field: str) -> str:
    """What is typed for a command's field: `--batch-size`; its name alone where it has none but its place."""
    name = field.partition("[")[0]
    positional = "Positional" in repr(get_type_hints(form, include_extras=True).get(name))
    return name if positional else "--" + name.replace("_", "-")


def registry() -> "ConstructorRegistry":
    """How options are typed: a pair of words as NAME=VALUE; rules of fields (`unbox.validation`) are nothing
    to the parser, which would print them in its messages."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    pair = PrimitiveConstructorSpec[tuple[str, str]](
        nargs=1,
        metavar="NAME=VALUE",
        instance_from_str=lambda words: (words[0].partition("=")[0], words[0].partition("=")[2]),
        is_instance=lambda value: isinstance(value, tuple) and len(value) == 2,
        str_from_instance=lambda value: ["=".join(value)],
    )
    rules = ConstructorRegistry()
    rules.primitive_rule(lambda kind: pair if kind.type == tuple[str, str] else None)

    @rules.primitive_rule
    def plain(kind: PrimitiveTypeInfo) -> "PrimitiveConstructorSpec | UnsupportedTypeAnnotationError | None":
        """The parser for the type without what is `Annotated` inside it."""
        bare = get_type_hints(type("_", (), {"__annotations__": {"kind": kind.type}}))["kind"]
        if bare == kind.type:
            return None
        return ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(bare, kind.markers))

    return rules


def mistakes() -> tuple[type[Exception], ...]:
    """What a message answers better than a traceback: our own errors, and the system's refusals (a missing
    file, a full disk, a folder that cannot be written)."""
    return UnboxError, OSError, import_module("activation_store").StoreError


def overview(rows: Sequence[Command] = COMMANDS) -> str:
    """The list of commands, one a line."""
    width = max(len(row.name) for row in rows)
    lines = "".join(f"  {row.name:{width}}  {row.about}\n" for row in rows)
    limit = f"`unbox {memory_limit.OPTION} 64GB COMMAND` sets how much memory one request may take."
    return f"usage: unbox COMMAND [options]\n\n{lines}\n`unbox COMMAND --help` documents each. {limit}"
