"""Output that nobody reads or that has no place: no traceback, and a true exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import unbox


def started(*words: str, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "unbox", "--help"),
        ("-m", "unbox", "store", "--help"),
        ("-m", "unbox", "generate", "--help"),
        ("-u", "-m", "unbox", "--help"),
        ("app.py", "--help"),
        pytest.param(("-m", "unbox", "models"), marks=pytest.mark.slow),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_pipe_that_nobody_reads_ends_a_command_quietly(words):
    read, write = os.pipe()
    os.close(read)  # before anything is written: every write fails, also those at the interpreter's end
    process = started(*words, stdout=write, cwd=Path(unbox.__file__).parents[1])
    os.close(write)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 141)


def test_errors_that_nobody_reads_change_no_exit_code():
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "unbox", "nothing"]
    process = subprocess.Popen(words, stderr=write, stdout=subprocess.PIPE)
    os.close(write)
    assert (process.communicate(timeout=60)[0], process.returncode) == (b"", 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_output_to_a_full_disk_says_so():
    with open("/dev/full", "w") as full:
        process = started("-m", "unbox", "--help", stdout=full)
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert told == "unbox: standard output: [Errno 28] No space left on device\n"


def test_a_pipe_of_another_kind_keeps_its_message(monkeypatch, capsys):
    from unbox.cli import main as cli

    def cut(*_):
        raise BrokenPipeError(32, "Broken pipe", "a connection")

    monkeypatch.setattr(cli, "run", cut)
    assert cli.main(["models"]) == 2
    assert capsys.readouterr().err == "unbox: a connection: Broken pipe\n"
