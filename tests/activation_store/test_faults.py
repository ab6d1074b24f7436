"""Kills, full disks, other writers: clear errors, nothing lost, resumed stores equal to undisturbed ones."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from threading import Lock

import pytest

from activation_store import Store, StoreError, Writer, files, new_hdf5, verify
from activation_store.locks import lock
from tests.activation_store import fakes

COUNT = 42


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return fakes.make(tmp_path_factory.mktemp("whole"), COUNT)


def start(folder, pause=0.0, rank=0, world=1, *mode):
    """A process that writes COUNT images, once it says that it has begun."""
    arguments = [folder, COUNT, pause, rank, world, *mode]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.activation_store.fakes", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "writing\n"
    return process


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("mode", [(), ("publish",)])
@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_nothing_that_was_published(tmp_path, undisturbed, kills, mode):
    rng = random.Random(kills)
    folder, rounds = tmp_path / "0", 0
    for number in range(kills):
        process = start(folder, 0.001, 0, 1, *mode)
        time.sleep(rng.uniform(0, 0.15))
        kill(process)
        before = len(Store.open(folder))
        assert not [f for f in verify(folder).findings if "in no log" not in f.problem]
        if before == COUNT:  # finished before it was killed: check, and begin anew
            assert Store.open(folder).digest == undisturbed.digest
            rounds, folder = rounds + 1, tmp_path / str(number + 1)
    assert fakes.make(folder, COUNT).digest == undisturbed.digest
    assert fakes.contents(folder) == fakes.contents(undisturbed.path)
    assert not list(folder.rglob("*.tmp"))


def test_ranks_write_what_one_writes_and_any_number_may_go_on(tmp_path, undisturbed):
    first, second = (start(tmp_path, rank=rank, world=2) for rank in (0, 1))
    for process in (first, second):
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert Store.open(tmp_path).digest == undisturbed.digest
    other = tmp_path / "other"
    fakes.make(other, COUNT, rank=1, world=3)
    assert Store.open(other).missing(COUNT) == [(0, 4), (8, 16), (20, 28), (32, 40)]
    assert fakes.make(other, COUNT).digest == undisturbed.digest


def test_more_images_later_extend_the_last_shard(tmp_path, undisturbed):
    assert len(fakes.make(tmp_path, 22)) == 22
    assert len(fakes.make(tmp_path, 10)) == 22
    assert fakes.make(tmp_path, COUNT).digest == undisturbed.digest
    assert fakes.contents(tmp_path) == fakes.contents(undisturbed.path)


class Failing:
    """A function that fails at its n-th call."""

    def __init__(self, function, nth, code):
        self.function, self.left, self.code = function, nth, code
        self.lock = Lock()

    def __call__(self, *arguments):
        with self.lock:
            self.left -= 1
            now = self.left == 0
        if now:
            raise OSError(self.code, os.strerror(self.code))
        return self.function(*arguments)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize(
    ("module", "name"),
    [(new_hdf5.os, "pwrite"), (files.os, "fsync"), (files.os, "replace"), (new_hdf5.os, "ftruncate")],
)
def test_a_disk_that_fails_at_the_nth_write_loses_nothing(tmp_path, monkeypatch, module, name, code):
    whole, nth, tried = fakes.make(tmp_path / "whole", 10), 0, 0
    while True:
        nth += 1 + nth // 5  # every early call, then ever fewer
        folder = tmp_path / str(nth)
        failing = Failing(getattr(os, name), nth, code)
        with monkeypatch.context() as patch:
            patch.setattr(module, name, failing)
            raised = error_of(lambda folder=folder: fakes.make(folder, 10))
        if failing.left > 0:  # it was never called so often
            break
        tried += 1
        assert os.strerror(code) in raised
        if (folder / "store.json").exists():
            assert not [f for f in verify(folder).findings if "in no log" not in f.problem]
        assert fakes.make(folder, 10).digest == whole.digest
    assert raised is None
    assert tried >= 3


def error_of(function):
    """The message of the disk's error that `function` ends with, or None."""
    try:
        function()
    except (StoreError, OSError) as error:
        return str(error)
    return None


def test_a_real_limit_of_the_file_system_is_one_clear_line(tmp_path):
    """RLIMIT_FSIZE makes the kernel refuse; HDF5 must neither crash the interpreter nor hide it."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "from tests.activation_store import fakes; fakes.make(sys.argv[1], 10, shard_samples=8)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "images 0..7 could not be written" in done.stderr.splitlines()[-1]
    assert "File too large" in done.stderr.splitlines()[-1]
    assert not fakes.contents(tmp_path)
    assert len(fakes.make(tmp_path, 10, shard_samples=8)) == 10


def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path, undisturbed):
    first = start(tmp_path, pause=0.02)
    try:
        with pytest.raises(StoreError, match=f"in use by process {first.pid} on "):
            fakes.make(tmp_path, COUNT)
        with pytest.raises(StoreError, match="is being written by 1 ranks, and this is rank 1 of 2"):
            fakes.make(tmp_path, COUNT, rank=1, world=2)
    finally:
        _, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert Store.open(tmp_path).digest == undisturbed.digest


def test_a_stale_lock_is_no_lock(tmp_path, undisturbed):
    process = start(tmp_path, pause=1)
    kill(process)
    assert (tmp_path / "writer-00000.lock").exists()
    (tmp_path / "writer-00001.lock").write_text('{"rank": 1, "world": 7, "host": "gone", "pid": 1}')
    assert fakes.make(tmp_path, COUNT).digest == undisturbed.digest


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", Failing(None, 1, errno.ENOLCK))
    with pytest.raises(StoreError, match="no locks"), lock(tmp_path / "x.lock"):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write a store at .*file"):
        fakes.make(tmp_path / "file", 1)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(StoreError, match="read-only"):
        fakes.make(tmp_path / "new", 1)


def test_a_store_on_read_only_media_is_read(tmp_path, undisturbed):
    store = fakes.make(tmp_path, 5)
    for path in [*tmp_path.rglob("*"), tmp_path]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert verify(tmp_path).good
        assert len(list(store["mid.0"].batches(7))) == 12
    finally:
        for path in [tmp_path, *tmp_path.rglob("*")]:
            path.chmod(0o755)


def test_other_settings_and_other_prompts_are_refused_by_name(tmp_path):
    fakes.make(tmp_path, 6)
    with pytest.raises(StoreError, match="seed was 0, is 1"):
        fakes.make(tmp_path, 6, provenance={"system": "fake", "seed": 1})
    with pytest.raises(StoreError, match="dtype was float16, is int8"):
        fakes.make(tmp_path, 6, dtype="int8")
    with Writer(tmp_path, fakes.schema()) as writer:
        others = ([replace(fakes.sample(i), seed=1) for i in range(count)] for count in (2, 4, 9))
        for given in others:  # also fewer than the first shard has
            with pytest.raises(StoreError, match=r"image 0 was .* \(seed \d+\), is .* \(seed 1\)"):
                list(writer.missing(given))
        assert [each.index for each in writer.missing(map(fakes.sample, range(9)))] == [6, 7, 8]


def test_an_exception_while_collecting_keeps_every_whole_image(tmp_path):
    def interrupted():
        with Writer(tmp_path, fakes.schema()) as writer:
            fakes.fill(writer, 9)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert len(Store.open(tmp_path)) == 9  # the ninth in a shard of its own, until more come
    assert fakes.make(tmp_path, 12).digest == fakes.make(tmp_path / "whole", 12).digest


def test_another_run_is_refused_by_the_fields_that_differ(tmp_path):
    """Not by those that JSON alone changes: tuples, and numbers as keys."""
    model = {"timesteps": {1: (399,)}, "scheduler": {"class": "Euler", "shift": 1.0}}
    fakes.make(tmp_path, 4, provenance={"model": model, "seed": 0})
    fakes.make(tmp_path, 8, provenance={"model": model, "seed": 0})
    with pytest.raises(StoreError, match=r"other settings: seed was 0, is 1; use the same"):
        fakes.make(tmp_path, 4, provenance={"model": model, "seed": 1})
    other = {**model, "scheduler": {"class": "LCM", "shift": 1.0}}
    with pytest.raises(StoreError, match=r"settings: model\.scheduler\.class was Euler, is LCM; use"):
        fakes.make(tmp_path, 4, provenance={"model": other, "seed": 0})
