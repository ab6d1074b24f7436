"""Imports the peers' packages where some of what they depend on is absent.

A training step of theirs uses torch, einops and little else, and their packages import plotting, hubs,
language models and trackers beside it. Where such a module is not installed, an empty one stands for it, so
that the real step can be timed on a machine without a network. What the step itself calls must be there: an
empty module answers every name with a class that raises when it is made.
"""

import contextlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any, ClassVar

#: Modules of the peers' requirements that no training step calls.
UNUSED = (
    "transformer_lens", "nnsight", "wandb", "datasets", "plotly", "plotly_express", "babe", "nltk", "dotenv",
    "circuitsvis", "umap", "zstandard", "schedulefree", "natsort", "timm", "cv2", "skimage", "sklearn",
    "tenacity", "pandas", "torchvision", "matplotlib", "docstring_parser",
)  # fmt: skip


HOOKS = ("transformer_lens.hook_points", "transformer_lens.HookedTransformer")


class _Absent(type):
    """A class of an absent module: can be named, subclassed and subscripted, not made."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent(f"{cls.__name__}.{name}")

    def __getitem__(cls, item: object) -> Any:
        return cls

    def __or__(cls, other: object) -> Any:
        return cls

    __ror__ = __or__


def _absent(name: str) -> Any:
    def refuse(self: object, *args: object, **options: object) -> None:
        if len(args) == 1 and callable(args[0]) and not options:
            return  # used as a decorator
        raise ImportError(f"{name} is of a package that is not installed")

    return _Absent(name, (), {"__init__": refuse})


class _Module(ModuleType):
    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent(f"{self.__name__}.{name}")


def _hook_points(name: str) -> ModuleType:
    """What sae-lens takes of transformer_lens: a module, and points that let everything through."""
    from torch import nn

    class HookedRootModule(nn.Module):
        def setup(self) -> None:
            """Names no points: no hook is ever put on one here."""

    found = _Module(name)
    vars(found).update(HookedRootModule=HookedRootModule, HookPoint=type("HookPoint", (nn.Identity,), {}))
    return found


class AbsentModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds, after all others, what no other finder has."""

    def __init__(self) -> None:
        self.stood_in: list[str] = []

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name.partition(".")[0] not in UNUSED:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        self.stood_in.append(spec.name)
        name = spec.name
        return _hook_points(name) if name in HOOKS else _Module(name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: the module is empty."""


def stand_in() -> AbsentModules:
    """Let absent modules of `UNUSED` be imported from now on; gives which were."""
    finder = AbsentModules()
    sys.meta_path.append(finder)
    with contextlib.suppress(ImportError):
        from matplotlib import cm, pyplot

        vars(cm).setdefault("get_cmap", pyplot.get_cmap)  # overcomplete asks for it by its former place
    return finder
