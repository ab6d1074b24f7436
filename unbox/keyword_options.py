"""Functions whose keywords are the fields of a class: each has its type, and an error names what there is."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import wraps
from itertools import islice
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from unbox.errors import UnboxError
from unbox.validation import behind

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
R = TypeVar("R")
Options = TypeVar("Options")
P = ParamSpec("P")


class keyword_options(Generic[P, Options]):  # used as a decorator
    """Decorator: `f(a, b, options)` takes the fields of `options`, a class made by `validated`, as keywords.

    They stand in its signature too. `former`: keywords that had other names -> their names; an old one is a
    DeprecationWarning. Raises TypeError, naming the options, for one that there is not.
    """

    def __init__(self, options: Callable[P, Options], former: Mapping[str, str] | None = None) -> None:
        self._options, self._former = options, former or {}

    @overload
    def __call__(self, function: Callable[[A, B, Options], R]) -> Callable[Concatenate[A, B, P], R]: ...
    @overload
    def __call__(self, function: Callable[[A, B, C, Options], R]) -> Callable[Concatenate[A, B, C, P], R]: ...
    @overload
    def __call__(
        self, function: Callable[[A, B, C, D, Options], R]
    ) -> Callable[Concatenate[A, B, C, D, P], R]: ...
    def __call__(self, function: Callable[..., R]) -> Callable[..., R]:
        signature = inspect.signature(function)
        leading = list(islice(signature.parameters.values(), len(signature.parameters) - 1))
        first = signature.replace(parameters=leading)
        own = {each.name for each in leading}

        @wraps(function)
        def call(*args: Any, **given: Any) -> R:
            places = first.bind(*args, **{name: given[name] for name in own & given.keys()})
            options = self._made(function.__name__, {n: v for n, v in given.items() if n not in own})
            return function(*places.args, options)

        of_options = inspect.signature(self._options).parameters.values()
        keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in of_options]
        call.__signature__ = signature.replace(parameters=[*leading, *keywords])  # type: ignore[attr-defined]
        return call

    def _made(self, name: str, given: dict[str, Any]) -> Options:
        names = [field.name for field in fields(self._options)]  # type: ignore[arg-type]  # a dataclass
        for old, new in self._former.items():
            if old in given:
                if new in given:
                    raise UnboxError(f"{old} is now called {new}; give it once")
                warnings.warn(f"{old}= is now called {new}=", DeprecationWarning, stacklevel=3)
                given[new] = given.pop(old)
        if unknown := [each for each in given if each not in names]:
            near = "".join(f" (is it {each}?)" for each in get_close_matches(unknown[0], names, n=1))
            asked = f"{name}() has no option {unknown[0]}{near}"
            raise TypeError(f"{asked}; the options are {', '.join(names)}")
        with behind(name):
            return self._options(**given)  # type: ignore[call-arg]
