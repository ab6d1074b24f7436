"""Number formats of a store: float16, bfloat16 (its bits), float32; with a scale per vector int8, float8."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from activation_store import compiled_loops
from activation_store.errors import UnstorableError

#: Rows that `take` decodes at once.
_BLOCK = 64


@dataclass(frozen=True)
class NumberFormat:
    """How vectors lie on disk."""

    stored: np.dtype
    """Type of the stored values, shape (..., d)."""
    scale_bytes: int
    """Bytes of the float32 scale per vector: 4 for int8 and float8, else 0."""
    encode: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
    """Float array (..., d) -> stored values and scales (...,)."""
    decode: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    """Inverse of `encode`, to float32 (a new array)."""


def encode(array: np.ndarray, dtype: str, where: str = "the update") -> tuple[np.ndarray, np.ndarray | None]:
    """Stored values and scales of `array` (..., d), float32 or float16 (or bfloat16's bits, uint16).

    Raises UnstorableError for NaN, infinity and values that the format cannot hold (float16 ends at 65,504).
    """
    values, scale = NUMBER_FORMATS[dtype].encode(array)
    if not _finite(values, scale, dtype):
        raise UnstorableError(f"{where} {_reason(array, dtype)}")
    return values, scale


def why_unstorable(array: np.ndarray, dtype: str) -> str | None:
    """What is wrong with an array that a format cannot hold ("holds 3 values that are NaN ..."), or None."""
    return None if _finite(*NUMBER_FORMATS[dtype].encode(array), dtype) else _reason(array, dtype)


def _reason(array: np.ndarray, dtype: str) -> str:
    """What is wrong with an array that a format cannot hold, and what to do."""
    given = {"e": "float16", "H": "bfloat16"}.get(array.dtype.char, array.dtype.name)
    numbers = _from_bfloat(array, None) if given == "bfloat16" else array
    if count := int(numbers.size - np.isfinite(numbers).sum()):
        wider = {"float16": "bfloat16 or float32", "bfloat16": "float32"}.get(given)
        beyond = f"If they were over {given}'s range, keep them as {wider}" if wider else (
            "The model itself gave them")  # fmt: skip
        return f"holds {count:,} values that are NaN or infinite; nothing of it was stored. {beyond}"
    wider = "bfloat16 or float32" if dtype == "float16" else "float32"
    largest = float(np.abs(numbers).max())
    return f"reaches {largest:g}, over the largest {dtype}: nothing of it was stored; use {wider}"


def decode(values: np.ndarray, scale: np.ndarray | None, dtype: str) -> np.ndarray:
    """Float32 array (..., d) of stored values, a new array."""
    return NUMBER_FORMATS[dtype].decode(values, scale)


def take(values: np.ndarray, scale: np.ndarray | None, rows: np.ndarray, dtype: str) -> np.ndarray:
    """Some rows (m,) of stored values (n, d) and scales (n,): (m, d) float32, a new array."""
    out = np.empty((len(rows), values.shape[1]), np.float32)
    if compiled_loops.AVAILABLE and dtype == "float16":
        compiled_loops.take_half(values, rows, out)
        return out
    for start in range(0, len(rows), _BLOCK):  # what is between stays in the cache
        some = rows[start : start + _BLOCK]
        part = None if scale is None else scale[some]
        out[start : start + _BLOCK] = decode(values.take(some, axis=0), part, dtype)
    return out


def _finite(values: np.ndarray, scale: np.ndarray | None, dtype: str) -> bool:
    """Whether encoded values are finite. Half floats are looked at as integers, those with a sign as the
    largest ones without: twenty times as fast."""
    if scale is not None:
        return bool(np.isfinite(scale).all())
    exponent = {"float16": 0x7C00, "bfloat16": 0x7F80}.get(dtype)
    if exponent is None:
        return bool(np.isfinite(values).all())
    if values.size == 0:
        return True
    largest, lowest = int(values.view(np.int16).max()), int(values.view(np.uint16).max())
    return largest < exponent and lowest < 0x8000 | exponent


def _to_half(array: np.ndarray) -> tuple[np.ndarray, None]:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(array, np.float16), None


def _from_half(values: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """float16 -> float32 by moving bits, exact for finite values; three times as fast as NumPy's cast.

    Exponent and mantissa are shifted into float32's place; the difference of the exponents' biases (127 -
    15) is made up by a multiplication with 2^112, which also normalises subnormal numbers.
    """
    if compiled_loops.AVAILABLE and values.ndim > 1:
        out = np.empty(values.shape, np.float32)
        rows = values.reshape(-1, values.shape[-1])
        compiled_loops.take_half(rows, np.arange(len(rows)), out.reshape(rows.shape))
        return out
    bits = values.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # sign, 5 bits of exponent, 10 of mantissa: 0x8FFFE000
    floats = bits.view(np.float32)
    floats *= np.float32(2.0**112)
    return floats


def _to_bfloat(array: np.ndarray) -> tuple[np.ndarray, None]:
    """Round to nearest even on the bits. bfloat16 bits (uint16) pass as they are."""
    if array.dtype == np.uint16:
        return np.ascontiguousarray(array), None
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded), None


def _from_bfloat(values: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    return (values.astype(np.uint32) << 16).view(np.float32)


def _to_single(array: np.ndarray) -> tuple[np.ndarray, None]:
    return np.ascontiguousarray(array, np.float32), None


def _from_single(values: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    return values.astype(np.float32)


def _to_int8(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric, per vector: scale = max|x| / 127, error at most scale / 2. A zero vector has scale zero."""
    array = np.ascontiguousarray(array, np.float32)
    scale, scaled = _scaled(array, 127)
    return np.clip(np.rint(scaled), -127, 127).astype(np.int8), scale


def _from_int8(values: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    assert scale is not None
    return values.astype(np.float32) * scale[..., None]


def _to_float8(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """e4m3 (sign, 4 bits of exponent, 3 of mantissa; no infinities), rounded to nearest even, per vector
    scaled so that the largest is 448, the largest e4m3: error at most |x| / 16, or scale / 1024 where that is
    more.

    Numbers of e4m3 from 2^-6 on have float32's own bits, shifted, with another bias; below they are
    multiples of 2^-9.
    """
    array = np.ascontiguousarray(array, np.float32)
    scale, scaled = _scaled(array, 448)
    scaled = np.clip(scaled.astype(np.float32, copy=False), -448, 448)
    bits = scaled.view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    rounded = (magnitude + np.uint32(0x7FFFF) + ((magnitude >> 20) & np.uint32(1))) >> 20
    small = np.rint(np.abs(scaled) * np.float32(512)).astype(np.uint32)
    code = np.where(np.abs(scaled) < np.float32(2**-6), small, rounded - np.uint32((127 - 7) << 3))
    return (code | bits >> 24 & np.uint32(0x80)).astype(np.uint8), scale


def _from_float8(values: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    assert scale is not None
    return _FLOAT8.take(values) * scale[..., None]


def _float8_numbers() -> np.ndarray:
    """The number that each byte stands for, (256,) float32; the two that stand for NaN are as the largest."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    size = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10))
    return (np.where(code < 128, 1, -1) * np.minimum(size, 448)).astype(np.float32)


_FLOAT8 = _float8_numbers()


def _scaled(array: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """A scale for each vector (...,) and the vectors by it, (..., d) within +-`largest`; zero where the scale
    is not finite.

    The scale is rounded up to 17 significant bits: its multiples are then exact in float32, and a decoded
    vector encodes to itself.
    """
    exact = np.abs(array).max(-1) / np.float32(largest)
    scale = ((exact.view(np.uint32) + np.uint32(0x7F)) & ~np.uint32(0x7F)).view(np.float32)
    if not np.isfinite(scale).all():
        return scale, np.zeros_like(array)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(scale > 0, np.float32(1) / scale, 0).astype(np.float32)
    if not np.isfinite(inverse).all():  # subnormal scales: divide in double, where their inverse exists
        inverse = np.divide(1.0, scale, where=scale > 0, out=np.zeros(scale.shape), dtype=np.float64)
    return scale, array * inverse[..., None]


NUMBER_FORMATS = {
    "float16": NumberFormat(np.dtype("<f2"), 0, _to_half, _from_half),
    "bfloat16": NumberFormat(np.dtype("<u2"), 0, _to_bfloat, _from_bfloat),
    "float32": NumberFormat(np.dtype("<f4"), 0, _to_single, _from_single),
    "int8": NumberFormat(np.dtype("i1"), 4, _to_int8, _from_int8),
    "float8": NumberFormat(np.dtype("u1"), 4, _to_float8, _from_float8),
}
