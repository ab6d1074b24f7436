"""Every command is stopped at random moments and started again by the line that it prints.

UNBOX_STOPS=20 stops each command twenty times by each signal, for the figures of docs/reliability.md.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from unbox.cli.after_stop import SENTENCES, after_stop
from unbox.cli.main import COMMANDS, find, main, parse
from unbox.models.png_record import read_png

TRIALS = int(os.environ.get("UNBOX_STOPS", "1"))
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
#: `unbox app` is stopped in tests/explorer/test_served.py.
NAMES = [command.name for command in COMMANDS if command.name != "app"]
#: Further ways of a command, by an option that makes another of it.
WAYS = ["train --prompts"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Runs one trial in a process that has everything loaded."""
    home = tmp_path_factory.mktemp("stops")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "ignore", "-m", "tests.cli.stopped", str(home)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:

        def trial(*asked):
            print(json.dumps(asked), file=server.stdin, flush=True)
            answer = server.stdout.readline()
            assert answer, (home / "setup.log").read_text()[-3000:]
            found = json.loads(answer)
            assert "failed" not in found, found["failed"]
            return found

        yield trial
        server.stdin.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, *WAYS])
def test_a_command_stopped_at_any_moment_goes_on_by_the_line_that_it_prints(name, stopped):
    codes = Counter()
    for number in CODES:
        for seed in range(TRIALS):
            found = stopped(name, number, seed)
            told, code = found["log"], found["code"]
            assert code in (0, CODES[number]), told
            assert found["code again"] == 0, told
            if not (name == "label" and number == signal.SIGKILL):  # then the same line labels further ones
                assert found["differs"] == [], told
            if code in (130, 143):
                command = name.split(" --")[0]
                sentences = {after_stop(command, writes, []).split(";")[0] for writes in (True, False)}
                assert found["kept"] in sentences
                assert found["line"].startswith(found["typed"])
                assert found["kept"] != "Nothing was changed" or found["unchanged"], told
            codes[code] += 1
    print(f"{name}: {sum(codes.values())} stops, of which {codes[0]} came after the end")


def test_sentences_are_of_commands_that_there_are_and_stand_in_the_pages_table():
    assert set(SENTENCES) <= {command.name for command in COMMANDS}
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
    page = page[page.index("## Stops") : page.index("**How it is done.")]
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `")]
    told = {name.split(" --")[0]: kept for names, kept in rows for name in re.findall("`([^`]*)`", names)}
    assert set(SENTENCES) <= set(told)
    assert all(sentence in told[name] for name, sentence in SENTENCES.items())
    rest = page[page.index("The others (") :]
    assert all(f"`{command.name}`" in rest for command in COMMANDS if command.name not in SENTENCES)


class Told:
    """Stands at a place in a command and sends it a signal when it comes by the n-th time."""

    def __init__(self, function, nth, number):
        self.function, self.left, self.number = function, nth, number

    def __call__(self, *arguments, **options):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.number)
        return self.function(*arguments, **options)


def stop_at(monkeypatch, target, nth, number, words, capsys):
    """What a command prints that gets a signal at the n-th call of a function, and its exit code."""
    module, name = target.rsplit(".", 1)
    place = import_module(module)
    with monkeypatch.context() as patch:
        patch.setattr(place, name, Told(getattr(place, name), nth, number))
        code = main(words)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_generate_goes_on_with_the_seed_that_it_drew(tiny, tmp_path, monkeypatch, capsys, number, code):
    words = ["generate", "--model", str(tiny), "--system", "sdxl-turbo", "--prompt", "a cat", "a dog"]
    words += ["--steps", "1", "--height", "64", "--width", "64", "--count", "3", "--batch-size", "2"]
    words += ["--out", str(tmp_path / "image.png")]
    target = "unbox.models.png_record.save_png"
    stopped, said = stop_at(monkeypatch, target, 3, number, words, capsys)
    assert stopped == code
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
    assert sorted(kept) == [f"image-{i}.png" for i in range(4)]  # the batch in work was written whole
    line = re.search(r"Stopped\. Finished images are kept; to go on: unbox (.*)\n", said)[1]
    assert shlex.split(line)[:-2] == words
    assert main(shlex.split(line)) == 0
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    first = int(shlex.split(line)[-1])
    seeds = [read_png(tmp_path / f"image-{i}.png")["seed"] for i in range(6)]
    assert seeds == [first, first + 1, first + 2] * 2


def test_a_stop_after_the_last_image_is_none(tiny, tmp_path, monkeypatch, capsys):
    words = ["invert", str(tmp_path / "red.png"), "--model", str(tiny), "--steps", "2", "--height", "64"]
    words += ["--width", "64", "--out", str(tmp_path / "out.png")]
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    target = "unbox.models.png_record.save_png"
    assert stop_at(monkeypatch, target, 1, signal.SIGTERM, words, capsys)[0] == 0
    assert (tmp_path / "out.png").exists()
    (tmp_path / "out.png").unlink()
    code, said = stop_at(monkeypatch, "unbox.edits.invert", 1, signal.SIGTERM, words, capsys)
    assert code == 143
    assert f"Nothing was changed; to begin anew: unbox {shlex.join(words)}\n" in said
    assert not (tmp_path / "out.png").exists()


def test_a_command_of_several_processes_names_no_line_of_one(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    said = after_stop("collect", True, ["collect"])
    assert said == "Finished images are kept; to go on: the line that started all 8 processes"


def test_what_keeps_nothing_says_so():
    for name, words in (("evaluate", ["--saes", "s", "--store", "t"]), ("collect", ["--dry-run"])):
        given = [] if name == "evaluate" else ["--prompts", "shapes", "--limit", "1", "--store", "x"]
        command, rest = find([name, *words, *given])
        assert not parse(command, rest).writes
    assert after_stop("evaluate", False, ["evaluate"]) == "Nothing was changed; to begin anew: unbox evaluate"
