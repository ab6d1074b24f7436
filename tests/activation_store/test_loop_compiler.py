"""Loops where nothing can be written: read-only packages, no home, a cache that is no folder, a full disk."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

ROOT = Path(__file__).parents[2]
PACKAGES = ("activation_store", "unbox/sae/cpu")

#: Loops of both packages, of which one is run: in time by NumPy's.
SCRIPT = """
import resource, signal, sys
import numpy as np
from activation_store.compiled_loops import sums
from unbox.sae.cpu import step_kernels, topk_kernel
assert sums.__code__.co_filename.startswith(sys.argv[1])
if sys.argv[2:]:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
words = np.arange(1, 1000, dtype=np.uint16)
weighted = words[::-1].astype(int) * np.arange(1, 1000)
assert sums(words) == (int(words.sum() % 65535), int(weighted.sum() % 65535))
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A copy of the source."""
    folder = tmp_path_factory.mktemp("packages")
    for name in ("activation_store", "unbox"):
        only_source = lambda at, names: [n for n in names if not (n.endswith(".py") or Path(at, n).is_dir())]  # noqa: E731
        shutil.copytree(ROOT / name, folder / name, ignore=only_source)
    for each in folder.rglob("__pycache__"):
        shutil.rmtree(each)
    return folder


def run(folder: Path, *words: str, **variables: str) -> None:
    variables = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    command = [sys.executable, "-c", SCRIPT, str(folder), *words]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_can_be_written(packages):
    for package in PACKAGES:  # files in the way stop root too, whom permissions do not
        (packages / package / "__pycache__").write_bytes(b"")
    home = str(packages / "activation_store/__init__.py")
    try:
        run(packages, HOME=home, XDG_CACHE_HOME=home, NUMBA_CACHE_DIR=home)
        run(packages, HOME="/nonexistent/home", XDG_CACHE_HOME=home)
    finally:
        for package in PACKAGES:
            (packages / package / "__pycache__").unlink()


def test_the_disk_is_full_when_compiled_code_is_kept(packages):
    run(packages, "full")


def test_compiled_code_is_kept_where_it_can_be(packages, tmp_path):
    run(packages, NUMBA_CACHE_DIR=str(tmp_path))
    assert list(tmp_path.rglob("compiled_loops._sums*.nbc"))
