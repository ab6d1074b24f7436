"""Where on the image an edit acts: a box, an array of any resolution, or the feature's own map."""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from unbox.errors import UnboxError
from unbox.json_types import JSON
from unbox.picture_file import grey_levels

_CODES: dict[str, np.dtype[Any]] = {"u1": np.dtype("u1"), "f4": np.dtype("<f4")}
_LARGEST = 2**28  # elements: a damaged or hostile file must not ask for more memory than this

#: What `Mask.of` makes a mask of.
MaskLike: TypeAlias = "Mask | Image.Image | ArrayLike | None"


@dataclass(frozen=True)
class Mask:
    """Weights over the image, compared and hashed by content. Make one with `Mask.of`.

    Exactly one of the three is set: `box` = (left, top, right, bottom) in fractions of the image;
    `data` = raw bytes of an array (..., y, x), whose leading axes may be `(step,)` or `(feature, step)`;
    `own` = the map of the feature itself, divided by its peak in each image.
    """

    box: tuple[float, float, float, float] | None = None
    shape: tuple[int, ...] = ()
    code: str = ""
    data: bytes = b""
    own: bool = False

    @overload
    @classmethod
    def of(cls, where: None) -> None: ...

    @overload
    @classmethod
    def of(cls, where: "Mask | Image.Image | ArrayLike") -> "Mask": ...

    @classmethod
    def of(cls, where: MaskLike) -> "Mask | None":
        """Mask from what a user may pass: None, a Mask, a box of fractions, "own", an array, a PIL image.

        Arrays are (y, x), (step, y, x) or (feature, step, y, x), of any resolution; of pictures
        the opacity or grey levels (`picture_file.grey_levels`). Raises UnboxError for anything else.
        """
        if where is None or isinstance(where, Mask):
            return where
        if isinstance(where, str):
            if where != "own":
                raise UnboxError(f"mask '{where}' is not known; a mask is a box, an array, an image or 'own'")
            return cls(own=True)
        if isinstance(where, tuple | list) and len(where) == 4 and all(np.isscalar(v) for v in where):
            return cls._of_box(tuple(float(v) for v in where))
        if isinstance(where, Image.Image):
            return cls._of_array(grey_levels(where))
        return cls._of_array(_as_array(where))

    @classmethod
    def _of_box(cls, box: tuple[float, ...]) -> "Mask":
        left, top, right, bottom = box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise UnboxError(
                f"box {box} is not (left, top, right, bottom) in fractions of the image, "
                "with 0 <= left < right <= 1 and 0 <= top < bottom <= 1"
            )
        return cls(box=(left, top, right, bottom))

    @classmethod
    def _of_array(cls, array: np.ndarray) -> "Mask":
        if array.ndim not in (2, 3, 4) or 0 in array.shape:
            raise UnboxError(
                f"a mask of shape {array.shape} cannot be placed: it is (y, x), (step, y, x) or "
                "(feature, step, y, x), and not empty"
            )
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise UnboxError("the mask has values that are not finite")
        levels = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
        exact = np.array_equal(levels.astype(np.float32) / 255, array)
        code, stored = ("u1", levels) if exact else ("f4", array)
        return cls(shape=array.shape, code=code, data=stored.astype(_CODES[code]).tobytes())

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
            raise UnboxError("the feature's own map is known only while the model runs")
        if self.box is not None:
            left, top, right, bottom = self.box
            rows, columns = _coverage(top, bottom, height), _coverage(left, right, width)
            return np.outer(rows, columns).astype(np.float32)
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
        """Inverse of `to_json`. Raises UnboxError for anything that it did not write."""
        if value is None or isinstance(value, str):
            return cls.of(value)
        parts: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {}
        if set(parts) == {"box"} and len(parts["box"]) == 4:
            return cls.of([float(v) for v in parts["box"]])
        if set(parts) == {"shape", "dtype", "zlib"}:
            return cls._of_array(_unpack(parts["shape"], parts["dtype"], parts["zlib"]))
        raise UnboxError("a mask in JSON is 'own', {'box': [l, t, r, b]} or {'shape', 'dtype', 'zlib'}")


def _as_array(where: ArrayLike) -> np.ndarray:
    try:
        array = np.asarray(where)
        return array.astype(np.float32) if array.dtype != object else _not_a_mask(where)
    except (TypeError, ValueError):
        return _not_a_mask(where)


def _not_a_mask(where: ArrayLike) -> np.ndarray:
    raise UnboxError(f"{type(where).__name__} is not a mask; a mask is a box, an array, an image or 'own'")


def _unpack(sides: Sequence[int], code: str, packed: str) -> np.ndarray:
    """The array of a mask's JSON; never inflates more bytes than its shape promises."""
    try:
        shape = tuple(int(side) for side in sides)
        dtype = _CODES[code]
        count = int(np.prod(shape, dtype=np.int64))
        if min(shape) < 1 or count > _LARGEST:
            raise ValueError(f"shape {shape}")
        data = zlib.decompressobj().decompress(base64.b64decode(packed), count * dtype.itemsize + 1)
        array = np.frombuffer(data, dtype).reshape(shape).astype(np.float32)
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise UnboxError(f"the mask's array is damaged: {error}") from error
    return array / 255 if code == "u1" else array


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
