"""Folders that commands write: checked first, one writer, one run, nothing left where nothing was written."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from activation_store import StoreError
from activation_store.locks import lock
from unbox.errors import UnboxError
from unbox.run_folder import RECORD, check_writable_file, named, new_folder, run_folder

RUN = {"model": named("tiny", "ab12cd34ef56"), "seed": 3, "values": [["colour", "red"]]}


def test_the_same_run_goes_on(tmp_path):
    for _ in range(2):
        with run_folder(tmp_path / "a/b", "demo") as folder:
            folder.claim(RUN, {"images": 4})
            assert folder.recorded()["images"] == 4
    assert json.loads((tmp_path / "a/b" / RECORD).read_text())["command"] == "demo"


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("model", named("other", "ffffffffffff"), r"model was tiny \(ab12cd34\), is other \(ffffffff\)"),
        ("seed", 4, "seed was 3, is 4"),
        ("values", (), r'values was \[\["colour", "red"\]\], is \[\]'),
    ],
)
def test_another_run_is_refused_by_name(tmp_path, part, value, told):
    with run_folder(tmp_path, "demo") as folder:
        folder.claim(RUN)
    before = (tmp_path / RECORD).read_bytes()
    with run_folder(tmp_path, "demo") as folder, pytest.raises(UnboxError, match=told) as caught:
        folder.claim({**RUN, part: value})
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(" was ") == 2  # the one part, and "what it was begun with"
    assert (tmp_path / RECORD).read_bytes() == before


def test_what_does_not_count_is_no_other_run(tmp_path):
    with run_folder(tmp_path, "demo") as folder:
        folder.claim(RUN, {"images": 4})
        folder.claim({**RUN, "model": named("moved/tiny", "ab12cd34ef56"), "values": (("colour", "red"),)})
        folder.claim({**RUN, "new": 1}, {"images": 5})
        assert folder.recorded()["images"] == 5


def test_a_folder_without_a_record_is_of_what_it_is_known_to_be_of(tmp_path):
    (tmp_path / "rows.csv").touch()
    with run_folder(tmp_path, "demo") as folder:
        with pytest.raises(UnboxError, match="seed was 2, is 3"):
            folder.claim(RUN, before={"seed": 2})
        folder.claim(RUN, before={"seed": 3})


def test_results_of_another_command_are_refused(tmp_path):
    with run_folder(tmp_path, "bench shapes") as folder:
        folder.claim({})
    with pytest.raises(UnboxError, match="holds results of `unbox bench shapes`; give `unbox experiment`"):
        run_folder(tmp_path, "experiment").__enter__()


@pytest.mark.parametrize("text", ["{", "[]", '{"parts": 3}'])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(UnboxError, match=RECORD):
        run_folder(tmp_path, "demo").__enter__()


@pytest.mark.parametrize("hold", [run_folder, new_folder])
def test_nothing_is_left_where_nothing_was_written(tmp_path, hold):
    (tmp_path / "empty").mkdir()
    for place in ("a/b", "empty/c"):
        with pytest.raises(KeyboardInterrupt), hold(tmp_path / place, "demo"):
            raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]
    with hold(tmp_path / "a/b", "demo"):
        (tmp_path / "a/b").mkdir(exist_ok=True)
        (tmp_path / "a/b/result").touch()
    assert {path.name for path in (tmp_path / "a").rglob("*")} == {"b", "result"}


@pytest.mark.parametrize("hold", [run_folder, new_folder])
def test_a_place_that_cannot_be_written_is_said_first(tmp_path, hold, monkeypatch):
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        with pytest.raises(UnboxError, match="not a folder"):
            hold(tmp_path / place, "demo").__enter__()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(UnboxError, match="read-only"):
        hold(tmp_path / "new" / "deep", "demo").__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files(tmp_path):
    check_writable_file(tmp_path / "new/image.png")
    with pytest.raises(UnboxError, match="is a folder"):
        check_writable_file(tmp_path)


def test_a_new_folder_must_be_new(tmp_path):
    with pytest.raises(UnboxError, match="exists already"):
        new_folder(tmp_path, "evaluate").__enter__()
    with new_folder(tmp_path / "x", "evaluate"), pytest.raises(UnboxError, match="in use by process"):
        new_folder(tmp_path / "x", "evaluate").__enter__()


def test_the_same_thread_may_hold_it_twice_and_another_may_not(tmp_path):
    found: list[str] = []

    def other():
        try:
            with run_folder(tmp_path, "demo"):
                found.append("in")
        except UnboxError as error:
            found.append(str(error))

    with run_folder(tmp_path, "demo") as outer, run_folder(tmp_path, "demo") as inner:
        assert inner is outer
        (tmp_path / "result").touch()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"in use by process {os.getpid()}" in found[0]
    other()
    assert found[1:] == ["in"]


HOLD = """
import sys, time
from unbox.run_folder import run_folder
with run_folder(sys.argv[1], "demo"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_refused_until_a_killed_one_is_gone(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UnboxError, match=f"in use by process {process.pid}"):
            run_folder(tmp_path, "demo").__enter__()
        process.kill()
    with run_folder(tmp_path, "demo"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_removed_lets_no_two_in(tmp_path, monkeypatch):
    """Its file is opened, and before it is locked its holder removes it: the file that is there is locked."""
    path, real = tmp_path / "x.lock", os.open
    removed: list[bool] = []

    def opened(name, *rest, **options):
        found = real(name, *rest, **options)
        if not removed:
            removed.append(True)
            Path(name).unlink()
        return found

    monkeypatch.setattr(os, "open", opened)
    with lock(path), pytest.raises(StoreError, match="in use"):
        lock(path).__enter__()
    assert removed
