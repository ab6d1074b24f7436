"""Packages whose public names are imported when first used, so that their light modules cost nothing.

A package's `__init__` imports its names under `if TYPE_CHECKING:` and ends with `lazy(__name__)`, which
also sets `__all__`. Its modules of plain values (`unbox.sae.plan`) can then be imported without torch.
"""

import ast
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType


class LazyPackage(ModuleType):
    """A package that knows in which module each of its names is."""

    _home_of: dict[str, str]

    def __getattr__(self, name: str) -> object:
        if name not in self._home_of:
            there = ", ".join(sorted(self._home_of))
            raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'; it has {there}")
        value = getattr(import_module(self._home_of[name]), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        # Importing the module `fit` must not hide the function `fit` that is in it.
        if not (isinstance(value, ModuleType) and name in self._home_of):
            super().__setattr__(name, value)


def lazy(package: str) -> None:
    """Make a package import the names of its `if TYPE_CHECKING:` block when they are asked for."""
    module = sys.modules[package]
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    guarded = [node for branch in tree.body if isinstance(branch, ast.If) for node in branch.body]
    imports = [node for node in guarded if isinstance(node, ast.ImportFrom)]
    home_of = {alias.name: str(node.module) for node in imports for alias in node.names}
    module.__dict__.update(_home_of=home_of, __all__=sorted(home_of))
    module.__class__ = LazyPackage
