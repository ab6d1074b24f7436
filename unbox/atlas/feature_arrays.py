"""The HDF5 files of an atlas, open for reading: arrays with a row a feature, checked when one is opened."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from unbox.errors import UnboxError

#: Length of an axis that may be any; none of an atlas comes near it.
LONGEST = 1 << 16
#: Axes of an array behind its rows; None: any length.
Axes = tuple[int | None, ...]


class FeatureArrays:
    """One file. Raises UnboxError, naming it, where it is missing, truncated, or not as expected."""

    def __init__(self, path: Path, rows: int | None, axes: Mapping[str, Axes]) -> None:
        """`rows`: of every array, None for any; `axes`: those of each array behind its rows."""
        self.path = path
        try:
            self._file = h5py.File(path, "r", locking=False)
            for name, behind in axes.items():
                self._check(name, rows, behind)
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise self._damaged(error) from error

    def read(self, name: str, row: int | slice) -> np.ndarray:
        """Rows of an array."""
        try:
            return np.asarray(self._file[name][row])
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise self._damaged(error) from error

    def pair(self, name: str) -> tuple[int, int]:
        """An attribute of two sides."""
        found = np.asarray(self._file.attrs.get(name, ()))
        if found.shape != (2,) or found.dtype.kind not in "iu" or not all(0 < n < LONGEST for n in found):
            raise self._damaged(f"{name} is {found.tolist()}")
        return int(found[0]), int(found[1])

    def _check(self, name: str, rows: int | None, behind: Axes) -> None:
        array = self._file[name]
        shape = getattr(array, "shape", None)
        if shape is None or len(shape) != 1 + len(behind) or array.dtype.kind not in "fiu":
            raise ValueError(f"{name} is no array of numbers with {1 + len(behind)} axes")
        for length, wanted in zip(shape, (rows, *behind), strict=True):
            if (wanted is not None and length != wanted) or (wanted is None and length > LONGEST << 8):
                raise ValueError(f"{name} has shape {shape}, not {(rows, *behind)}")

    def _damaged(self, reason: object) -> UnboxError:
        text = " ".join(str(reason).split())[:200]
        return UnboxError(f"{self.path} is damaged or missing ({text}): build it again with `unbox atlas`")
