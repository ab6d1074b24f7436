"""What edits ask of a dictionary of features: an SAE, or a baseline with its interface."""

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import PlainValidator


class Array(Protocol):
    """An array of numpy or torch."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray, /) -> Any: ...


class FeatureStatistics(Protocol):
    """What features did on a sample of updates: arrays (n,)."""

    @property
    def mean_active(self) -> Array: ...

    @property
    def density(self) -> Array: ...


class Dictionary(Protocol):
    """Features of one block's updates, of width d. `unbox.sae.SAE`, and the baselines of `unbox.edits`."""

    @property
    def block(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def latents(self) -> int: ...

    @property
    def W_dec(self) -> Array:
        """(n, d): the features' directions."""
        ...

    @property
    def update_std(self) -> float:
        """Root mean square distance of an update from the mean update."""
        ...

    @property
    def stats(self) -> FeatureStatistics | None: ...


def _dictionary(value: object) -> object:
    if not hasattr(value, "W_dec"):
        raise ValueError("should be an SAE, or another dictionary of features")
    return value


#: The rule of a field that holds one.
AnyDictionary = Annotated[Dictionary, PlainValidator(_dictionary)]
