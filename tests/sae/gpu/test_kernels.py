"""The step's kernels against autograd of the definition, in float64: on a GPU, or in Triton's interpreter."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

HOLD = ["topk", "keep_largest", "step", "dense_step", "whole_rows", "training", "folder", "step_with_auxk"]
CHECKS = Path(__file__).with_name("kernel_checks.py")


def test_kernels_in_tritons_interpreter():
    """In a process of its own: whether Triton interprets is decided when it is imported."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    done = subprocess.run([sys.executable, str(CHECKS), "--interpret"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == HOLD


@pytest.mark.gpu
def test_kernels_on_the_card():
    done = subprocess.run([sys.executable, str(CHECKS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == HOLD
