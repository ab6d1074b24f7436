"""Versions of installed packages, and of unbox where it runs from a checkout that is not installed."""

import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _installed
from pathlib import Path


@cache
def version(package: str) -> str:
    """A package's version; raises importlib.metadata.PackageNotFoundError for one that is absent."""
    try:
        return _installed(package)
    except PackageNotFoundError:
        project = Path(__file__).parents[1] / "pyproject.toml"
        if package != "unbox" or not project.is_file():
            raise
        return str(tomllib.loads(project.read_text("utf-8"))["project"]["version"])
