"""The script that measures a GPU runs from end to end, at toy size on the CPU."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_section_runs_at_toy_size(tmp_path):
    page = tmp_path / "page.md"
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--tiny", "--out", str(page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    sections = [line[3:] for line in page.read_text().splitlines() if line.startswith("## ")]
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from gpu import SECTIONS
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    assert sections == list(SECTIONS)
    assert "Traceback" not in page.read_text()
