"""Several vectors of one width as a value: compared and hashed by content, JSON both ways."""

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal, TypeAlias

import numpy as np
from annotated_types import MaxLen, MinLen
from numpy.typing import ArrayLike
from pydantic import BeforeValidator

from unbox import memory_limit
from unbox.errors import FieldError
from unbox.json_types import JSON
from unbox.validation import Count, Several, Text, parsed, validated

#: (vectors, width).
Shape = Annotated[Several[Count], MinLen(2), MaxLen(2)]


@validated
class Vectors:
    """Vectors (count, width) in half precision. Make one with `Vectors.of`."""

    shape: Shape
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.data) != (size := 2 * math.prod(self.shape)):
            raise FieldError(
                "", "data", f"{len(self.data):,} bytes", f"should be {size:,} bytes for its shape"
            )

    @classmethod
    def of(cls, rows: "Vectors | ArrayLike") -> "Vectors":
        """Vectors of an array (count, width) of any library. Raises FieldError for anything else."""
        if isinstance(rows, Vectors):
            return rows
        if hasattr(rows, "detach"):  # a tensor, of any device and type
            rows = rows.detach().cpu().float()
        try:
            array = np.asarray(rows)
        except (TypeError, ValueError):
            array = np.empty(0, object)
        if array.dtype.kind not in "iuf" or array.ndim != 2 or 0 in array.shape:
            raise FieldError("", "", rows, "should be vectors (count, width), at least one")
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            half = array.astype("<f2")
        if not np.isfinite(half).all():
            raise FieldError("", "", rows, "should have finite values, below 65,504")
        return cls(array.shape, half.tobytes())

    @property
    def array(self) -> np.ndarray:
        """(count, width) float32."""
        return np.frombuffer(self.data, "<f2").reshape(self.shape).astype(np.float32)

    def to_json(self) -> JSON:
        """`{"shape", "dtype", "zlib"}` with the array in base64."""
        packed = base64.b64encode(zlib.compress(self.data, 6)).decode("ascii")
        return {"shape": list(self.shape), "dtype": "f2", "zlib": packed}


@validated
class _InJSON:
    shape: Shape
    dtype: Literal["f2"]
    zlib: Text

    @property
    def vectors(self) -> Vectors:
        """Never inflates more bytes than the shape promises."""
        size, inflater = 2 * math.prod(self.shape), zlib.decompressobj()
        memory_limit.require(4 * size, f"{self.shape[0]:,} vectors of {self.shape[1]:,} numbers")
        try:
            data = inflater.decompress(base64.b64decode(self.zlib, validate=True), size + 1)
        except (ValueError, zlib.error) as error:
            raise FieldError("", "zlib", self.zlib, f"should be deflated, in base64: {error}") from error
        if len(data) != size or not inflater.eof:
            raise FieldError("", "zlib", self.zlib, f"should hold {size:,} bytes, as the shape says")
        return Vectors.of(np.frombuffer(data, "<f2").reshape(self.shape))


def _vectors(value: object) -> Vectors:
    """Vectors of what users write for them, and of JSON."""
    try:
        if isinstance(value, Mapping):
            return parsed(_InJSON, value, "").vectors
        return Vectors.of(value)  # type: ignore[arg-type]  # refused there
    except FieldError as error:
        raise error.at("") from None


#: The rule of a field that holds vectors: what `Vectors.of` takes, and their JSON.
VectorsField: TypeAlias = Annotated[Vectors, BeforeValidator(_vectors)]
