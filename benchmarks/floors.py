"""The tests with the oldest versions that pyproject.toml allows, and another Python: not run in CI.

    python benchmarks/floors.py --python 3.12            # the oldest of every dependency
    python benchmarks/floors.py --python 3.13 --newest   # the newest of every dependency

Needs `uv` (pip install uv), which finds the interpreter. Prints the
versions and what pytest prints.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: What runs the tests; the extras below and these have no floors of their own.
TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "jupytext")
SHOWN = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "numpy",
    "scipy",
    "h5py",
    "gradio",
    "numba",
)


def main() -> int:
    """The exit code of the tests."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default="3.12", help="version of the interpreter")
    parser.add_argument("--newest", action="store_true", help="the newest versions instead of the oldest")
    parser.add_argument("--torch", default="", help="exact version of torch, like 2.11.0, or 2.11.0+cpu")
    parser.add_argument("tests", nargs="*", help="what pytest is given; default: everything that is not slow")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = f"{folder}/venv/bin/python"
        uv = [sys.executable, "-m", "uv"]
        _run(*uv, "venv", "--quiet", "--python", asked.python, f"{folder}/venv")
        install = [*uv, "pip", "install", "--quiet", "--python", python]
        chosen = [f"torch=={asked.torch}"] if asked.torch else []
        resolution = "highest" if asked.newest else "lowest-direct"
        _run(
            *install,
            "--resolution",
            resolution,
            *chosen,
            "--editable",
            f"{ROOT}[app,cpu,data]",
            "scikit-image>=0.25",
        )
        _run(*install, *TOOLS)
        versions = f"{{name: version(name) for name in {SHOWN}}}"
        code = (
            f"import sys; from importlib.metadata import version; print(sys.version.split()[0], {versions})"
        )
        _run(python, "-c", code)
        return subprocess.run(
            [python, "-m", "pytest", "-q", *(asked.tests or ["-m", "not slow and not real_size"])], cwd=ROOT
        ).returncode


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
