"""Every command, stopped at random moments and run again. Runs as a script, which answers lines on stdin.

A process that has imported everything and loaded the model forks the ones to be stopped, so that they are
stopped at work and not at their imports. With one thread, equal work gives equal bits.
"""

import functools
import json
import os
import random
import re
import shlex
import shutil
import signal
import sqlite3
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from tests.cli import hub_server
from tests.models.tiny import tiny_pipeline
from tests.training.data.pictures import folder_of

SHAPES = ("--model", "shapes-turbo", "--offline", "--device", "cpu")
#: Recipe -> options with which it takes seconds.
METHOD_OPTIONS = {
    "turbo": "--lora-rank 2 --steps 1",
    "lightning": "--lora-rank 2 --teacher-steps 2 --student-steps 1",
    "novelai": "",
    "ncp": "--lora-rank 2 --gradient-accumulation-steps 1 --losers {}/losers",
    "distar": "--lora-rank 2 --guidance 1",
}
SAID = re.compile(r"^Stopped\. (?P<kept>.*); to (?:go on|begin anew): unbox (?P<line>.*)$", re.MULTILINE)
Words = Sequence[str | Path]


class Scenario(NamedTuple):
    """A command at work: what is typed, given the place to write to, and what that place holds before."""

    words: Callable[[Path], Words]
    begin: Callable[[Path], object] = lambda out: None


def old_store(out: Path) -> None:
    """A store as a version before wrote it."""
    with zipfile.ZipFile(Path(__file__).parents[1] / "written_before" / "store.zip") as archive:
        archive.extractall(out.parent / f"{out.name}-zip")
    shutil.move(out.parent / f"{out.name}-zip" / "store", out)


class Commands:
    """The scenarios, on inputs that are made once in `home`."""

    def __init__(self, home: Path, labeller: str) -> None:
        from unbox.cli.main import main

        self.home, self.labeller = home, labeller
        for words in (self.collect(home / "store"), self.train(home / "saes"), self.atlas(home / "atlas")):
            assert main(list(map(str, words))) == 0, words
        for number in (0, 1):
            part = home / f"part-{number}"
            ranks = ("--rank", str(number), "--world", "2")
            assert main(list(map(str, [*self.collect(part), *ranks]))) == 0
        self.write_inputs()
        self.all: dict[str, Scenario] = {
            "demo": Scenario(self.demo),
            "models": Scenario(lambda out: ["models"]),
            "verify": Scenario(lambda out: ["verify", *SHAPES, "--repeats", "1", "--out", out / "page.html"]),
            "collect": Scenario(self.collect),
            "store info": Scenario(lambda out: ["store", "info", home / "store"]),
            "store verify": Scenario(lambda out: ["store", "verify", home / "store"]),
            "store repair": Scenario(lambda out: ["store", "repair", out], self.damage),
            "store upgrade": Scenario(lambda out: ["store", "upgrade", out], old_store),
            "store merge": Scenario(
                lambda out: ["store", "merge", home / "part-0", home / "part-1", "--out", out]
            ),
            "store subset": Scenario(
                lambda out: ["store", "subset", home / "store", "--out", out, "--blocks", "mid.0"]
            ),
            "store add-blocks": Scenario(
                lambda out: ["store", "add-blocks", out, "--blocks", "up.0.1", "--batch-size", "2", *SHAPES],
                lambda out: shutil.copytree(home / "store", out),
            ),
            "store push": Scenario(lambda out: ["store", "push", home / "store", f"out/{out.name}"]),
            "store pull": Scenario(lambda out: ["store", "pull", "me/acts", "--out", out]),
            "train": Scenario(self.train),
            "train --prompts": Scenario(self.train_online),
            "evaluate": Scenario(self.evaluate),
            "atlas": Scenario(self.atlas),
            "features": Scenario(lambda out: ["features", "--atlas", home / "atlas"]),
            "label": Scenario(self.label, lambda out: shutil.copytree(home / "atlas", out)),
            "generate": Scenario(self.generate),
            "invert": Scenario(self.invert),
            "erase": Scenario(self.erase),
            "diff": Scenario(self.diff),
            "experiment": Scenario(lambda out: ["experiment", home / "sweep.toml", "--out", out]),
            "bench shapes": Scenario(self.bench_shapes),
            "bench erasure": Scenario(self.bench_erasure),
            "bench riebench": Scenario(self.bench_riebench),
            "recipe shapes": Scenario(self.recipe_shapes),
            "recipe sdxl": Scenario(self.recipe_sdxl),
            **{f"recipe {name}": Scenario(partial(self.recipe_method, name)) for name in METHOD_OPTIONS},
            "recipe real-size": Scenario(lambda out: ["recipe", "real-size", "--out", out]),
            "sae info": Scenario(lambda out: ["sae", "info", home / "saes"]),
            "sae import": Scenario(lambda out: ["sae", "import", home / "theirs", "--out", out]),
            "sae export": Scenario(
                lambda out: ["sae", "export", home / "saes", "--out", out, "--format", "sparsify"]
            ),
            "sae push": Scenario(lambda out: ["sae", "push", home / "saes", f"out/{out.name}"]),
            "sae pull": Scenario(lambda out: ["sae", "pull", "me/saes", "--out", out]),
        }

    def write_inputs(self) -> None:
        """Files that the commands read."""
        from unbox.cli.main import main

        home = self.home
        picture = ["--prompt", "a red circle", "--steps", "1", "--seed", "3", "--out", home / "picture.png"]
        theirs = ["sae", "export", home / "saes", "--out", home / "theirs", "--format", "sparsify"]
        for words in (["generate", *picture, *SHAPES], theirs):
            assert main(list(map(str, words))) == 0
        shutil.copytree(home / "saes", home / "hub" / "me" / "saes")
        shutil.copytree(home / "store", home / "hub" / "datasets" / "me" / "acts")
        (home / "sweep.toml").write_text(
            'model = "shapes-turbo"\nprompts = { shapes = 3, seed = 7 }\nseeds = [0]\nsteps = 1\n'
            'batch_size = 2\nmetrics = ["pixels"]\n[[edit]]\nname = "ablate"\nop = "scale"\nvalue = 0.0\n'
            'grid = { block = ["mid.0", "up.1.0"] }\n'
        )

    def collect(self, out: Path) -> Words:
        what = ("--prompts", "shapes", "--limit", "24", "--blocks", "mid.0", "up.1.0", "--steps", "1")
        return ["collect", *what, "--shard-samples", "4", "--batch-size", "2", *SHAPES, "--store", out]

    def damage(self, out: Path) -> None:
        """A store with two damaged shards."""
        shutil.copytree(self.home / "store", out)
        for shard in sorted((out / "shards").rglob("*.h5"))[1:3]:
            shard.write_bytes(shard.read_bytes()[:-100])

    def train(self, out: Path) -> Words:
        size = ("--k", "4", "--latents", "64", "--seeds", "0", "1", "--batch-size", "128")
        often = ("--tokens", "6000", "--checkpoint-every", "700", "--log-every", "700")
        return ["train", "--store", self.home / "store", *size, *often, "--device", "cpu", "--out", out]

    def train_online(self, out: Path) -> Words:
        images = (
            "--prompts",
            "shapes",
            "--limit",
            "24",
            "--steps",
            "1",
            "--image-batch",
            "2",
        )
        size = ("--blocks", "mid.0", "--k", "4", "--latents", "32", "--batch-size", "64", "--held-out", "0.1")
        often = ("--tokens", "3000", "--checkpoint-every", "700", "--log-every", "700")
        return ["train", *images, "--buffer", "2MB", *size, *often, *SHAPES, "--out", out]

    def evaluate(self, out: Path) -> Words:
        given = ("--saes", self.home / "saes", "--store", self.home / "store", "--images", "2")
        return ["evaluate", *given, "--stability", *SHAPES, "--out", out]

    def atlas(self, out: Path) -> Words:
        sizes = ("--top", "4", "--random", "3", "--per-interval", "2", "--decoys", "2", "--probes", "6")
        given = ("--saes", self.home / "saes", "--store", self.home / "store", "--places", "500")
        return ["atlas", *given, *sizes, "--caption-images", "8", *SHAPES, "--out", out]

    def label(self, out: Path) -> Words:
        return ["label", "--atlas", out, "--endpoint", self.labeller, "--endpoint-model", "m", "--limit", "5"]

    def generate(self, out: Path) -> Words:
        what = ("--prompt", "a red circle", "a blue star", "--count", "4", "--seed", "7", "--steps", "1")
        return ["generate", *what, "--batch-size", "3", *SHAPES, "--out", out / "image.png"]

    def invert(self, out: Path) -> Words:
        given = ("--prompt", "a red circle", "--steps", "2", "--out", out / "inverted.png")
        return ["invert", self.home / "picture.png", *given, *SHAPES]

    def erase(self, out: Path) -> Words:
        given = ("--store", self.home / "store", "--saes", self.home / "saes", "--percentile", "90")
        return [
            "erase",
            "ball",
            "square",
            *given,
            "--sequence",
            "--device",
            "cpu",
            "--out",
            out / "erase.json",
        ]

    def demo(self, out: Path) -> Words:
        sizes = "--guidance 0 --captions 16 --held-out-captions 12 --latents 16 --k 2 --tokens 2048 --sizes 2"
        cases = "--strengths 4 --trial-cases 2 --test-cases 2 --trial-pool 4 --test-pool 6"
        return ["demo", *sizes.split(), *cases.split(), "--values", "colour=red", *SHAPES, "--out", out]

    def bench_shapes(self, out: Path) -> Words:
        sizes = "--steps 1 --captions 16 --blocks-tried 1 --together 2 --sizes 2 --strengths 1 --draws 1"
        cases = "--trial-cases 1 --test-cases 1 --pairs 1 --transported 8 --moved 1 --values colour=red"
        given = ["--saes", self.home / "saes", "--out", out, *SHAPES]
        return ["bench", "shapes", *sizes.split(), *cases.split(), *given]

    def bench_erasure(self, out: Path) -> Words:
        sizes = "--captions 16 --blocks-tried 1 --percentiles 90 --multipliers -5 --sizes 2 --steered 1"
        cases = "--negative-guidance 2 --draws 1 --trial-cases 1 --test-cases 1 --values colour=red"
        given = ["--saes", self.home / "saes", "--out", out, *SHAPES]
        return ["bench", "erasure", *sizes.split(), *cases.split(), *given]

    def bench_riebench(self, out: Path) -> Words:
        data = Path(__file__).parents[2] / "examples" / "riebench_shapes.json"
        sizes = "--limit 3 --steps 1 --counts 4 --strengths 1 --neurons 8 --steering 1 --metrics pixels"
        given = ["--data", data, "--saes", self.home / "saes", "--out", out, *SHAPES]
        return ["bench", "riebench", *sizes.split(), *given]

    def diff(self, out: Path) -> Words:
        run = "--prompts shapes --limit 24 --blocks mid.0 --batch-size 2 --held-out 0.4 --seed 3"
        size = "--latents 32 --k 4 --tokens 3000 --rows 64 --flips 20 --splits 2 --alone"
        models = ("shapes-turbo,steps=1", "shapes-turbo,steps=2")
        return ["diff", "--models", *models, *run.split(), *size.split(), *SHAPES[2:], "--out", out]

    def recipe_shapes(self, out: Path) -> Words:
        return ["recipe", "shapes", "--stages", "captions", "detector", "--out", out]

    def recipe_sdxl(self, out: Path) -> Words:
        sizes = "--data shapes --limit 6 --lora-rank 2 --max-train-steps 8 --mixed-precision no"
        model = ("--model", "shapes-base", "--offline", "--device", "cpu")
        return ["recipe", "sdxl", *sizes.split(), *model, "--out", out]

    def recipe_method(self, name: str, out: Path) -> Words:
        if not (self.home / "tiny").exists():
            captions = {str(i): f"a red cat {i}" for i in range(3)}
            tiny_pipeline(self.home / "tiny", timestep_spacing="trailing")
            for folder in ("pictures", "losers"):
                folder_of(self.home / folder, captions)
        options = METHOD_OPTIONS[name].format(self.home).split()
        sizes = "--max-train-steps 3 --lr-warmup-steps 1 --mixed-precision no --square --device cpu"
        given = ["--model", self.home / "tiny", "--data", self.home / "pictures", *sizes.split()]
        return ["recipe", name, *given, *options, "--out", out]


def contents(out: Path) -> dict[str, Any]:
    """What a place holds, by path, without what no run promises: times, locks, temporaries."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out)
        if path.suffix in (".tmp", ".lock", ".html") or any(part.startswith(".") for part in name.parts):
            continue
        if path.match("commits-*.log"):  # superseded lines are left in it, in the order of the stops
            rows = [json.loads(line.split(" ", 1)[1]) for line in path.read_text().splitlines()[1:]]
            found[str(name)] = sorted({row[0]: row for row in rows if isinstance(row, list)}.values())
        elif path.match("statistics-*.bin"):  # sums of those shards, whose last bits are of their order
            continue
        elif path.name == "system.json":  # a system is called after its folder
            found[str(name)] = json.loads(path.read_text()) | {"name": path.parents[1].name == out.name}
        elif path.suffix == ".json":
            found[str(name)] = timeless(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            found[str(name)] = [timeless(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.suffix == ".md":  # a card says where it is
            found[str(name)] = path.read_text().replace(out.name, "NAME")
        elif path.suffix == ".sqlite":
            found[str(name)] = rows_of(path)
        else:
            found[str(name)] = path.read_bytes().hex()
    return found


def timeless(value: Any) -> Any:
    """JSON without what a clock decides."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "rows_per_second")}
    return [timeless(each) for each in value] if isinstance(value, list) else value


def rows_of(path: Path) -> dict[str, list[Any]]:
    """Every table of a database, without the times at which labels were made."""
    with sqlite3.connect(path) as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type='table'")]
        found: dict[str, list[Any]] = {}
        for table in tables:
            rows = connection.execute(f'select * from "{table}"')
            kept = [i for i, column in enumerate(rows.description) if column[0] != "made"]
            found[table] = sorted(repr([row[i] for i in kept]) for row in rows)
    return found


def start(words: Words, log: Path) -> int:
    """The id of a process that carries out a command line."""
    ready, begun = os.pipe()
    if process := os.fork():
        os.close(begun)
        os.read(ready, 1)
        os.close(ready)
        return process
    code = 1
    try:
        from tqdm import tqdm

        from unbox.cli.main import main

        for number in (signal.SIGINT, signal.SIGTERM):  # before and after the command they do nothing
            signal.signal(number, lambda *_: None)
        tqdm.set_lock(threading.RLock())  # its own is of all processes, and stays taken by one that is killed
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.write(begun, b".")
        code = main(list(map(str, words)))
    except SystemExit as end:
        code = 2 if end.code is None else int(end.code)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def code_of(process: int) -> int:
    """The exit code of a process once it has ended, -9 for one that was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


class Trials:
    """Runs of the commands, and what each gives undisturbed."""

    def __init__(self, home: Path, labeller: str) -> None:
        self.commands, self.place = Commands(home, labeller), home / "out"
        self.whole: dict[str, tuple[dict[str, Any], float]] = {}
        self.number = 0
        self.place.mkdir()

    def out(self, command: str) -> tuple[Path, Path]:
        """A place to write to, as it is before the command, and a log."""
        self.number += 1
        out = self.place / f"{command.replace(' ', '-')}-{self.number}"
        self.commands.all[command].begin(out)
        return out, out.with_suffix(".log")

    def held(self, command: str, out: Path) -> dict[str, Any]:
        """What the command has made."""
        hub = self.commands.home / "hub"
        on_hub = {"sae push": hub / "out", "store push": hub / "datasets" / "out"}
        return contents(on_hub[command] / out.name if command in on_hub else out)

    def undisturbed(self, command: str) -> tuple[dict[str, Any], float]:
        """What the command gives, and the seconds it takes."""
        if command not in self.whole:
            out, log = self.out(command)
            began = time.perf_counter()
            if code_of(start(self.commands.all[command].words(out), log)):
                raise RuntimeError(log.read_text()[-3000:])
            self.whole[command] = self.held(command, out), time.perf_counter() - began
            shutil.rmtree(out, ignore_errors=True)
        return self.whole[command]

    def run(self, command: str, number: int, seed: int) -> dict[str, Any]:
        """Stop a command by a signal at a random moment, then type the line that it names (after a kill, the
        same line)."""
        whole, seconds = self.undisturbed(command)
        out, log = self.out(command)
        before, words = self.held(command, out), self.commands.all[command].words(out)
        process = start(words, log)
        time.sleep(0.01 + random.Random(f"{command} {number} {seed}").random() * seconds)
        os.kill(process, number)
        code, said = code_of(process), log.read_text()
        after, match = self.held(command, out), SAID.search(said)
        again = shlex.split(match["line"]) if match else list(map(str, words))
        code_again = 0 if code == 0 else code_of(start(again, log))
        found = {
            "code": code,
            "kept": match["kept"] if match else None,
            "line": match["line"] if match else None,
            "typed": shlex.join(map(str, words)),
            "unchanged": before == after,
            "code again": code_again,
            "differs": differing(whole, self.held(command, out)),
            "log": log.read_text()[-3000:],
        }
        shutil.rmtree(out, ignore_errors=True)
        return found


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The files that are not the same."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


class Labeller(BaseHTTPRequestHandler):
    """The endpoint that `unbox label` asks: everything is red, and the first images show it."""

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        answer = "red things" if b"label of at most" in asked else "1, 2, 3"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"message": {"content": answer}}]}).encode())

    def log_message(self, *_):
        """Quiet."""


def small_recipes() -> None:
    """The recipes at toy size: their commands have no option for it."""
    from tests.models.test_real_size import small_architectures
    from unbox.models import real_size
    from unbox.recipes.shapes import run_stage, whole_recipe
    from unbox.recipes.shapes.recipe_settings import RecipeSizes

    real_size.ARCHITECTURES = small_architectures()
    make_models = run_stage.make_models

    def toy(made: whole_recipe.ShapesRecipe, stages: Sequence[str]) -> Iterator[Path]:
        return make_models(replace(made, sizes=RecipeSizes.small(), steps=2), stages)

    run_stage.make_models = toy


def main(home: str) -> None:
    """Answer each line on stdin, a JSON list of command, signal and seed, with a line of JSON."""
    os.environ |= {"HF_ENDPOINT": hub_server.serve(Path(home) / "hub"), "HF_HUB_OFFLINE": "0"}
    os.environ["HF_HUB_DISABLE_XET"] = "1"  # its storage speaks no HTTP that is documented
    answers = os.fdopen(os.dup(1), "w")
    with open(Path(home) / "setup.log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    import matplotlib.figure  # noqa: F401 (once, and not in every process)

    from unbox import models

    models.load = functools.cache(models.load)  # by the parent, once
    labeller = ThreadingHTTPServer(("127.0.0.1", 0), Labeller)
    threading.Thread(target=labeller.serve_forever, daemon=True).start()
    small_recipes()
    trials = Trials(Path(home), f"http://127.0.0.1:{labeller.server_port}/v1")
    for line in sys.stdin:
        command, number, seed = json.loads(line)
        try:
            found = trials.run(command, number, seed)
        except RuntimeError as error:
            found = {"failed": str(error)}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(*sys.argv[1:])
