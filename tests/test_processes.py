"""Pieces of work in several processes: each done once; what fails in one, and what ends them."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from unbox.errors import UnboxError
from unbox.processes import in_processes


@dataclass(frozen=True)
class Notes:
    """Writes a file for each piece, and one for each process that began."""

    folder: Path

    def __call__(self, number):
        (self.folder / f"process {number} {os.getpid()}").touch()

        def work(piece):
            if piece == "wrong":
                raise UnboxError("a piece is wrong")
            if piece == "killed":
                os._exit(9)
            if piece == "long":
                (self.folder / f"long {os.getpid()}").touch()
                time.sleep(600)
            with (self.folder / f"piece {piece}").open("x") as file:
                file.write(str(os.getpid()))

        return work


def test_every_piece_is_done_once_by_as_many_processes_as_there_is_work_for(tmp_path):
    assert sorted(in_processes(Notes(tmp_path), range(7), 3)) == list(range(7))
    began = {path.name.split()[2] for path in tmp_path.glob("process *")}
    did = {path.read_text() for path in tmp_path.glob("piece *")}
    assert len(began) == 3
    assert did <= began
    assert str(os.getpid()) not in began
    assert len(list(tmp_path.glob("piece *"))) == 7
    assert list(in_processes(Notes(tmp_path), [], 3)) == []


def test_what_is_wrong_in_a_process_is_said_and_ends_the_others(tmp_path):
    for piece, said in (("wrong", "a piece is wrong"), ("killed", "ended with code 9")):
        folder = tmp_path / piece
        folder.mkdir()
        with pytest.raises(UnboxError, match=said):
            list(in_processes(Notes(folder), ["long", piece], 2))
        assert_gone(folder)


def test_a_process_whose_giver_was_killed_ends_after_its_piece(tmp_path):
    code = f"""
from pathlib import Path
from tests.test_processes import Notes
from unbox.processes import in_processes
if __name__ == "__main__":
    for piece in in_processes(Notes(Path({str(tmp_path)!r})), range(100000), 1):
        pass
"""
    (tmp_path / "given.py").write_text(code)
    giver = subprocess.Popen(
        [sys.executable, tmp_path / "given.py"], env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    while not list(tmp_path.glob("piece *")):
        time.sleep(0.05)
    giver.kill()
    giver.wait()
    assert_gone(tmp_path)


def assert_gone(folder, seconds=20):
    pids = [int(path.name.split()[2]) for path in folder.glob("process *")]
    assert pids
    end = time.monotonic() + seconds
    while any(
        Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids
    ):
        assert time.monotonic() < end
        time.sleep(0.05)
