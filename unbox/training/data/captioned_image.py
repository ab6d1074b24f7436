"""One image of a training set as its source lists it, and what every source of images can do."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from unbox.errors import UnboxError
from unbox.picture_file import opened, upright_rgb
from unbox.validation import Text, checked

#: Names of columns (and of JSON keys) that hold a caption, in the order they are looked for.
CAPTION_COLUMNS = ("text", "caption", "prompt")
#: Characters of a caption at most: a guard against reading the wrong file.
LONGEST_CAPTION = 20_000
#: EXIF orientations under which height and width change places.
_TURNED = (5, 6, 7, 8)
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class CaptionedImage:
    """An image and its caption, before the image is opened."""

    key: str
    """Its name in the source: path in the folder, tar and name in it, number of a row."""
    caption: str
    size: int
    """Bytes of its file; 0 where there is none."""
    stamp: int
    """Another number when the content may have changed: the file's time of change, say."""
    place: tuple[int, ...] = ()
    """Where the source finds it again, in numbers of its own."""


class ImageSource(Protocol):
    """Images with captions, in one order that does not change while they do not."""

    def images(self) -> Iterator[CaptionedImage]:
        """Every image, without opening it. Raises UnboxError, naming it, for one without a caption."""
        ...

    def picture(self, image: CaptionedImage) -> Image.Image:
        """The image, upright, in RGB. Raises UnboxError, naming it, for what is no picture."""
        ...

    def digest(self, image: CaptionedImage) -> bytes:
        """16 bytes that tell its content from any other."""
        ...

    def sides(self, image: CaptionedImage) -> tuple[int, int]:
        """Its height and width in pixels, upright, from its header alone where it has one."""
        ...


class EncodedImages:
    """What sources of encoded pictures (PNG, JPEG, WebP, ...) have in common: they give bytes."""

    def encoded(self, image: CaptionedImage) -> bytes:
        """The bytes of the picture's file."""
        raise NotImplementedError

    def name(self, image: CaptionedImage) -> str:
        """What it is called in messages."""
        return image.key

    def picture(self, image: CaptionedImage) -> Image.Image:
        """Decoded, upright, over white."""
        with _named(self.name(image)), opened(self.encoded(image)) as found:
            return upright_rgb(found)

    def digest(self, image: CaptionedImage) -> bytes:
        """The first 16 bytes of the SHA-256 of its file."""
        return hashlib.sha256(self.encoded(image)).digest()[:16]

    def sides(self, image: CaptionedImage) -> tuple[int, int]:
        """From the header; its orientation is heeded."""
        with _named(self.name(image)), opened(self.encoded(image)) as found:
            return upright_sides(found)


def upright_sides(image: Image.Image) -> tuple[int, int]:
    """Height and width of an open picture as they are once it is turned upright."""
    turned = image.getexif().get(_ORIENTATION) in _TURNED
    return (image.width, image.height) if turned else (image.height, image.width)


def checked_caption(text: object, where: str) -> str:
    """A caption in one line. Raises UnboxError for one that is none, empty, or far too long."""
    if text is None or (isinstance(text, str) and not text.strip()):
        raise UnboxError(f"{where}: the caption is empty; write one, or take the image out")
    line = " ".join(checked(Text, "caption", text, where).split())
    if len(line) > LONGEST_CAPTION:
        raise UnboxError(f"{where}: the caption is over {LONGEST_CAPTION:,} characters")
    return line


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Mistakes inside are of this picture."""
    try:
        yield
    except UnboxError as error:
        raise error if name in str(error) else UnboxError(f"{name}: {error}") from None
