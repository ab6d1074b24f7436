"""JSON in a link: deflated, in URL-safe base64."""

import base64
import json
import zlib

from activation_store import StoreError
from activation_store.files import parse_json
from unbox.errors import FieldError
from unbox.explorer import limits
from unbox.json_types import JSON


def packed(value: JSON) -> str:
    """A value in a URL."""
    data = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return base64.urlsafe_b64encode(zlib.compress(data, 9)).decode().rstrip("=")


def unpacked(link: str) -> JSON:
    """Inverse of `packed`. Raises FieldError for a link that is damaged, or too long once inflated."""
    try:
        data = base64.b64decode(link.encode("ascii") + b"=" * (-len(link) % 4), b"-_", validate=True)
        inflater = zlib.decompressobj()
        text = inflater.decompress(data, limits.JSON_BYTES + 1)
        if not inflater.eof and len(text) <= limits.JSON_BYTES:
            raise ValueError("it is cut off")
    except (ValueError, zlib.error) as error:
        raise FieldError("", "link", link, f"should be whole: {error}") from error
    return parse(text, "link")


def parse(text: str | bytes, door: str = "recipe") -> JSON:
    """Strict JSON of at most `limits.JSON_BYTES`. Raises FieldError."""
    if len(text) > limits.JSON_BYTES:
        raise FieldError(door, "JSON", text[:100], f"should be at most {limits.JSON_BYTES:,} bytes")
    try:
        return parse_json(text, door)
    except StoreError as error:
        raise FieldError(door, "JSON", text[:100], f"should be valid: {error}") from None
