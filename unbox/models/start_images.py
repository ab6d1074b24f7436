"""What image-to-image systems start from: of one kind and one size, known before anything runs."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps

from unbox.errors import UnboxError
from unbox.picture_file import grey_levels, upright_rgb

StartImage = Image.Image | np.ndarray | torch.Tensor


def prepared(
    images: Sequence[StartImage], height: int | None, width: int | None, unit: int, scale: int
) -> tuple[list[StartImage], int, int]:
    """The images ready for the pipeline, and their height and width in pixels.

    PIL pictures are turned upright, laid over white and, where `height` or `width` is given, resized and
    cropped to it. Arrays are (height, width, 3) in 0..1; tensors (3, height, width), or latents (4, height /
    scale, width / scale). `unit`: sides are multiples of it. Raises UnboxError for several kinds or sizes in
    one call, and for sizes that cannot be sampled.
    """
    kinds = {type(image).__name__ if not isinstance(image, Image.Image) else "picture" for image in images}
    if len(kinds) > 1:
        raise UnboxError(f"the images of one call are of one kind; these are {', '.join(sorted(kinds))}")
    once = {
        id(image): _fitted(image, height, width) for image in {id(each): each for each in images}.values()
    }
    ready = [once[id(image)] for image in images]
    sizes = list(dict.fromkeys(_size(image, scale) for image in ready))
    if len(sizes) > 1:
        shown = ", ".join(f"{h} x {w}" for h, w in sizes[:5])
        raise UnboxError(
            f"the images of one call are of one size; these are {shown} (height x width): give height= and "
            "width= (--height, --width), to which pictures are resized and cropped"
        )
    (found,) = sizes
    asked = (found[0] if height is None else height, found[1] if width is None else width)
    if found != asked:
        raise UnboxError(
            f"arrays and tensors are not resized: this is {found[0]} x {found[1]} pixels, and {asked[0]} x "
            f"{asked[1]} are asked for"
        )
    if found[0] % unit or found[1] % unit or min(found) < unit:
        raise UnboxError(
            f"an image of {found[0]} x {found[1]} pixels cannot be refined; sides are multiples of {unit}: "
            "give height= and width= (--height, --width), to which pictures are resized and cropped"
        )
    return ready, *found


def prepared_mask(mask: StartImage, height: int, width: int) -> StartImage:
    """A mask as a grey picture of that size: PIL pictures are resized and cropped to it, arrays and tensors,
    (height, width) in 0..1, are of it. Raises UnboxError for those that are not."""
    if not isinstance(mask, Image.Image):
        levels = np.asarray(mask, np.float32)
        levels = levels[0] if levels.ndim == 3 and len(levels) == 1 else levels
        if levels.shape != (height, width) or not ((levels >= 0) & (levels <= 1)).all():
            raise UnboxError(
                f"a mask is a picture or an array (height, width) of 0..1, here ({height}, {width}), not "
                f"{type(mask).__name__} {levels.shape}"
            )
    else:
        levels = grey_levels(mask)
    picture = Image.fromarray(np.round(255 * levels).astype(np.uint8))
    return picture if picture.size == (width, height) else ImageOps.fit(picture, (width, height))


def prepared_control(picture: StartImage, height: int, width: int) -> StartImage:
    """The picture that a ControlNet follows, of that size, as `prepared_mask`."""
    fitted = _fitted(picture, height, width)
    if _size(fitted, 1) != (height, width):
        size = " x ".join(map(str, _size(fitted, 1)))
        raise UnboxError(
            f"arrays and tensors are not resized: a control picture of {size} pixels is given for images of "
            f"{height} x {width}"
        )
    return fitted


def _fitted(image: StartImage, height: int | None, width: int | None) -> StartImage:
    if not isinstance(image, Image.Image):
        return image
    image = upright_rgb(image)
    size = (image.width if width is None else width, image.height if height is None else height)
    return image if size == image.size or min(size) < 1 else ImageOps.fit(image, size)


def _size(image: StartImage, scale: int) -> tuple[int, int]:
    """Height and width in pixels."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    shape = tuple(image.shape) if isinstance(image, np.ndarray | torch.Tensor) else ()
    if isinstance(image, np.ndarray) and len(shape) == 3 and shape[2] == 3:
        return shape[0], shape[1]
    if isinstance(image, torch.Tensor) and len(shape) == 3 and shape[0] in (3, 4):
        times = scale if shape[0] == 4 else 1
        return shape[1] * times, shape[2] * times
    raise UnboxError(
        f"an image to start from is a picture, an array (height, width, 3), a tensor (3, height, width) or "
        f"latents (4, height / {scale}, width / {scale}), not {type(image).__name__} {shape or ''}; several "
        "are a list of them"
    )
