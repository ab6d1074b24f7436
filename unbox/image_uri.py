"""Pictures inside a page: data URIs, so that nothing is served from disk."""

import base64
import io
from typing import Protocol

from PIL import Image


def image_uri(image: Image.Image, format: str = "WEBP", quality: int | None = None) -> str:
    """A picture as a data URI; without `quality` (0 to 100) not a bit is lost."""
    return data_uri(image_bytes(image, format, quality), format.lower())


def image_bytes(image: Image.Image, format: str = "WEBP", quality: int | None = None) -> bytes:
    """A picture as a file's bytes; without `quality` (0 to 100) not a bit is lost."""
    options = {} if format == "PNG" else {"lossless": True, "method": 2}
    stream = io.BytesIO()
    image.save(stream, format, **(options if quality is None else {"quality": quality, "method": 4}))
    return stream.getvalue()


class PictureFile(Protocol):
    """A picture's file: a `Path`, or a part of a larger file."""

    @property
    def suffix(self) -> str:
        """Its kind, as `.webp`."""
        ...

    def read_bytes(self) -> bytes:
        """All of it."""
        ...


def file_uri(path: PictureFile | None) -> str:
    """A picture's file as a data URI, of the type that its ending says; empty where there is none."""
    return "" if path is None else data_uri(path.read_bytes(), path.suffix[1:].lower())


def data_uri(data: bytes, kind: str) -> str:
    """The bytes of a picture's file, of a kind like `png`, as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
