"""Where on the image an edit acts: a box, an array of any resolution, or the feature's own map."""

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, TypeAlias, overload

import numpy as np
from annotated_types import MaxLen, MinLen
from numpy.typing import ArrayLike
from PIL import Image
from pydantic import AfterValidator, BeforeValidator

from unbox import memory_limit
from unbox.errors import FieldError
from unbox.json_types import JSON
from unbox.picture_file import grey_levels
from unbox.validation import AS_TUPLE, Count, Real, Several, Text, checked, parsed, validated

#: What `Mask.of` makes a mask of.
MaskLike: TypeAlias = "Mask | Image.Image | ArrayLike | None"

_CODES: dict[str, np.dtype[Any]] = {"u1": np.dtype("u1"), "f4": np.dtype("<f4")}
_KINDS = "a box (left, top, right, bottom), an array, an image or 'own'"


def _inside(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(
            "should be (left, top, right, bottom) in fractions of the image, "
            "with 0 <= left < right <= 1 and 0 <= top < bottom <= 1"
        )
    return box


Box = Annotated[tuple[Real, Real, Real, Real], AS_TUPLE, AfterValidator(_inside)]
#: (y, x), (step, y, x) or (feature, step, y, x).
Shape = Annotated[Several[Count], MinLen(2), MaxLen(4)]


@validated
class Mask:
    """Weights over the image, compared and hashed by content. Make one with `Mask.of`.

    Exactly one of the three is set: `box` = (left, top, right, bottom) in fractions of the image;
    `data` = raw bytes of an array (..., y, x), whose leading axes may be `(step,)` or `(feature, step)`;
    `own` = the map of the feature itself, divided by its peak in each image.
    """

    box: Box | None = None
    shape: Several[Count] = ()
    code: Literal["", "u1", "f4"] = ""
    data: bytes = field(default=b"", repr=False)
    own: bool = False

    def __post_init__(self) -> None:
        if (self.box is not None) + bool(self.code) + self.own != 1:
            raise FieldError("", "own", self.own, f"should be alone: a mask is one of {_KINDS}")
        size = math.prod(checked(Shape, "shape", self.shape)) * _CODES[self.code].itemsize if self.code else 0
        if len(self.data) != size:
            raise FieldError("", "data", f"{len(self.data):,} bytes", f"should be {size:,} bytes")

    @overload
    @classmethod
    def of(cls, where: None) -> None: ...

    @overload
    @classmethod
    def of(cls, where: "Mask | Image.Image | ArrayLike") -> "Mask": ...

    @classmethod
    def of(cls, where: MaskLike) -> "Mask | None":
        """Mask from what a user may pass: None, a Mask, a box of fractions, "own", an array, a PIL image.

        Arrays are (y, x), (step, y, x) or (feature, step, y, x), of any resolution; of pictures the opacity
        or grey levels (`picture_file.grey_levels`). Raises FieldError for anything else, UnboxError for more
        memory than a request may take.
        """
        if where is None or isinstance(where, Mask):
            return where
        if isinstance(where, str):
            if where != "own":
                raise FieldError("mask", "", where, f"should be {_KINDS}")
            return cls(own=True)
        if isinstance(where, Image.Image):
            return cls._of_array(grey_levels(where))
        if isinstance(where, tuple | list) and len(where) == 4 and all(np.isscalar(v) for v in where):
            return cls(box=where)  # type: ignore[arg-type]  # checked there
        return cls._of_array(_as_array(where))

    @classmethod
    def _of_array(cls, array: np.ndarray) -> "Mask":
        checked(Shape, "shape", array.shape, "mask")
        require(array.shape)
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise FieldError("mask", "", array, "should have finite values")
        levels = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
        exact = np.array_equal(levels.astype(np.float32) / 255, array)
        if exact:
            return cls(shape=array.shape, code="u1", data=levels.tobytes())
        return cls(shape=array.shape, code="f4", data=array.astype(_CODES["f4"]).tobytes())

    @property
    def array(self) -> np.ndarray:
        """The weights as float32, in the shape they were given in; only masks made from an array have one."""
        values = np.frombuffer(self.data, _CODES[self.code]).reshape(self.shape)
        return values.astype(np.float32) / 255 if self.code == "u1" else values

    def on(self, height: int, width: int) -> np.ndarray:
        """Weights on a grid of positions: float32 (..., height, width), averaged over each position's area.

        Leading axes (step; feature, step) are kept. Raises UnboxError for the feature's own map, which is
        known only while the model runs.
        """
        if self.own:
            raise FieldError("mask", "own", True, "should be placed by a model that runs: it is known there")
        height, width = checked(Count, "height", height, "mask"), checked(Count, "width", width, "mask")
        if self.box is not None:
            memory_limit.require(12 * height * width, f"a box on {height:,} x {width:,} positions")
            left, top, right, bottom = self.box
            rows, columns = _coverage(top, bottom, height), _coverage(left, right, width)
            return np.outer(rows, columns).astype(np.float32)
        require(self.shape, (height, width))
        rows, columns = _area(self.shape[-2], height), _area(self.shape[-1], width)
        return np.einsum("iy,...yx,jx->...ij", rows, self.array, columns, optimize=True).astype(np.float32)

    @property
    def empty(self) -> bool:
        """True when the mask is nowhere: an edit with it changes nothing."""
        return not self.own and self.box is None and not any(self.data)

    def to_json(self) -> JSON:
        """JSON value: "own", {"box": [...]} or {"shape", "dtype", "zlib"} with the array in base64."""
        if self.own:
            return "own"
        if self.box is not None:
            return {"box": list(self.box)}
        packed = base64.b64encode(zlib.compress(self.data, 6)).decode("ascii")
        return {"shape": list(self.shape), "dtype": self.code, "zlib": packed}

    @classmethod
    def from_json(cls, value: JSON) -> "Mask | None":
        """Inverse of `to_json`. Raises FieldError for anything that it did not write."""
        if value is None or isinstance(value, str):
            return cls.of(value)
        if isinstance(value, Mapping) and "box" in value:
            return parsed(_BoxInJSON, value, "mask").mask
        if isinstance(value, Mapping) and {"shape", "dtype", "zlib"} & set(value):
            return cls._of_array(parsed(_ArrayInJSON, value, "mask").array)
        raise FieldError("mask", "", value, "should be 'own', {'box': ...} or {'shape', 'dtype', 'zlib'}")


@validated
class _BoxInJSON:
    box: Box

    @property
    def mask(self) -> Mask:
        return Mask(box=self.box)


@validated
class _ArrayInJSON:
    """An array of levels (u1) or of float32, deflated, in base64."""

    shape: Shape
    dtype: Literal["u1", "f4"]
    zlib: Text

    @property
    def array(self) -> np.ndarray:
        """The array; never inflates more bytes than the shape promises."""
        require(self.shape)
        dtype, inflater = _CODES[self.dtype], zlib.decompressobj()
        size = math.prod(self.shape) * dtype.itemsize
        try:
            data = inflater.decompress(base64.b64decode(self.zlib, validate=True), size + 1)
        except (ValueError, zlib.error) as error:
            raise FieldError("mask", "zlib", self.zlib, f"should be deflated, in base64: {error}") from error
        if len(data) != size or not inflater.eof:
            raise FieldError("mask", "zlib", self.zlib, f"should hold {size:,} bytes, as the shape says")
        array = np.frombuffer(data, dtype).reshape(self.shape).astype(np.float32)
        return array / 255 if self.dtype == "u1" else array


def require(shape: tuple[int, ...], grid: tuple[int, int] = (0, 0)) -> None:
    """Raises UnboxError for a mask that takes more memory than a request may, placed on a grid if one is
    given."""
    (*leads, height, width), (rows, columns) = (1, 1, *shape), grid
    leading = math.prod(leads)
    areas = 40 * (rows * height + columns * width)
    between = 8 * leading * max(rows * width, height * columns)
    size = 16 * math.prod(shape) + areas + between + 12 * leading * rows * columns
    placed = f" on {rows:,} x {columns:,} positions" if rows else ""
    memory_limit.require(size, f"a mask of {' x '.join(f'{side:,}' for side in shape)}{placed}")


def _placed(value: Any) -> Mask | None:
    """A mask of what users write for one, and of JSON."""
    try:
        return Mask.from_json(value) if isinstance(value, Mapping) else Mask.of(value)
    except FieldError as error:
        raise error.at("") from None


#: The rule of a field that says where: what `Mask.of` takes, and a mask's JSON.
Where = Annotated[Mask, BeforeValidator(_placed)]


def _as_array(where: Any) -> np.ndarray:
    """An array of real numbers, of any library."""
    if hasattr(where, "detach"):  # a tensor, of any device and type
        require(tuple(where.shape))
        where = where.detach().cpu().float()
    try:
        if isinstance(where, range):  # no picture, and as long as anybody likes
            raise TypeError
        array = np.asarray(where)
    except (TypeError, ValueError):
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf" or isinstance(where, np.ma.MaskedArray):
        raise FieldError("mask", "", where, f"should be {_KINDS}")
    return array


def _coverage(start: float, stop: float, cells: int) -> np.ndarray:
    """Fraction of each of `cells` equal cells of [0, 1] that the interval [start, stop] covers."""
    edges = np.arange(cells + 1) / cells
    return (np.clip(edges[1:], start, stop) - np.clip(edges[:-1], start, stop)) * cells


def _area(source: int, target: int) -> np.ndarray:
    """(target, source) weights that average `source` equal cells over each of `target` equal cells."""
    # In units of 1 / (source * target) every edge is an integer, so the overlaps are exact.
    fine, coarse = np.arange(source + 1) * target, np.arange(target + 1) * source
    high = np.minimum(coarse[1:, None], fine[None, 1:])
    low = np.maximum(coarse[:-1, None], fine[None, :-1])
    return np.maximum(high - low, 0) / source
