"""Pictures and masks that people bring, in PNG, JPEG, WebP, TIFF, GIF, BMP or PPM.

A picture becomes RGB: turned upright by its EXIF orientation, laid over white where it is transparent. A
mask becomes levels from 0 to 1. What cannot be read so is refused by name, and the memory that decoding takes
is asked for (`memory_limit`) when no more than the header has been read.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from unbox import memory_limit
from unbox.errors import UnboxError
from unbox.text_files import check_file

#: What transparent pictures are laid over, RGBA.
BACKGROUND = (255, 255, 255, 255)
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM")
#: Bytes a pixel while a picture is decoded, turned and composited, or read as a mask.
PIXEL_BYTES = 16
#: What Pillow raises for files that are damaged or made to do harm.
DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, OverflowError, struct.error,
    zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")


def read_picture(path: str | Path) -> Image.Image:
    """The picture in a file, upright, in RGB, over white. Raises UnboxError, naming the file, for what is no
    picture, is cut off or animated, has levels of 32 bits, or is larger than memory may be taken for."""
    with opened(path) as image:
        return upright_rgb(image)


def read_mask(path: str | Path) -> np.ndarray:
    """(y, x) float32 levels from 0 to 1 of the mask in a file (`grey_levels`). Raises as `read_picture`."""
    with opened(path) as image:
        return grey_levels(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """An RGB picture: turned as its EXIF orientation says, over white where it is transparent; grey levels of
    16 bits rounded to 8. Raises UnboxError for levels of 32 bits, whose range nobody knows."""
    image = _upright(image)
    if image.mode in _DEEP:
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, BACKGROUND), rgba)
    return image.convert("RGB")


def grey_levels(image: Image.Image) -> np.ndarray:
    """(y, x) float32 levels from 0 to 1 of a picture that is a mask, upright.

    Of a picture with transparency whose visible pixels have one colour, as painting programs save a mask, the
    opacity; of any other its grey levels, 0 where it is transparent. Grey of 16 bits keeps them all.
    """
    image = _upright(image)
    if image.mode in _DEEP:
        return np.asarray(image).astype(np.float32) / 65535
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA")).astype(np.float32) / 255
        colours, alpha = rgba[..., :3], rgba[..., 3]
        if alpha.min() < 1:
            # Programs that multiply colours by the opacity round them there: to a level of the product.
            first = colours.reshape(-1, 3)[alpha.argmax()]
            if (np.abs(colours - first).max(-1) * alpha).max() <= 1.5 / 255:
                return alpha
            black = Image.new("RGBA", image.size, (0, 0, 0, 255))
            image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.asarray(image.convert("L")).astype(np.float32) / 255


@contextmanager
def opened(source: str | Path | bytes, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """An open picture, its header read and its size allowed; whatever fails inside because the file is
    damaged is an UnboxError that names it. `source`: a path, or a file's bytes."""
    if isinstance(source, bytes):
        with _named("the picture"), _recognised(io.BytesIO(source), "the picture", formats) as image:
            yield image
        return
    path = Path(source)
    check_file(path)
    with open(path, "rb") as file, _named(str(path)), _recognised(file, str(path), formats) as image:
        yield image


def _recognised(file: IO[bytes], name: str, formats: tuple[str, ...]) -> Image.Image:
    """As `Image.open`, whose own bound on pixels no option could raise."""
    Image.init()
    first = file.read(16)
    file.seek(0)
    for factory, accepts in (Image.OPEN[kind] for kind in formats):
        if accepts is None or accepts(first) is not True:
            continue
        image: Image.Image = factory(file, name)
        if min(image.size) < 1:
            raise UnboxError(f"{name} has {image.width} x {image.height} pixels: there is nothing in it")
        size = f"the picture of {image.width} x {image.height} pixels in {name}"
        memory_limit.require(PIXEL_BYTES * image.width * image.height, size)
        if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a photo and its gain map
            raise UnboxError(f"{name} holds several frames or pages: save the one that is meant")
        return image
    raise UnboxError(f"{name} is not a picture in {', '.join(formats)}, whatever its name says")


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except UnboxError as error:
        raise error if name in str(error) else UnboxError(f"{name}: {error}") from None
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UnboxError(f"{name} cannot be read as a picture ({reason}): it is damaged or cut off") from None


def _upright(image: Image.Image) -> Image.Image:
    if image.mode == "I" and image.format == "PPM":  # a PGM of 16 bits
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode in ("I", "F"):
        raise UnboxError(
            f"a picture with levels of 32 bits (mode {image.mode}) has no known white: save 8 or 16"
        )
    return ImageOps.exif_transpose(image)
