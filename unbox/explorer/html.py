"""The explorer's HTML: its templates, and what they call to show pictures, maps and shares."""

from PIL import Image

from unbox.explorer.heat_map import heat_uri
from unbox.explorer.served_pictures import PICTURES
from unbox.templates import Templates

#: Pixels of a side up to which a picture is enlarged in squares.
PIXELS = 160


def share(value: float) -> str:
    """A share in percent, small ones with more places."""
    return f"{value:.1%}" if value >= 0.001 or value == 0 else f"{value:.3%}"


def look(image: Image.Image) -> str:
    """The class of a picture: few pixels are shown as squares, a photo is not."""
    return "ub-pixels" if max(image.size) <= PIXELS else ""


render = Templates(
    "unbox.explorer", address=PICTURES.image, file_address=PICTURES.file, heat_uri=heat_uri, share=share,
    look=look,
).render  # fmt: skip
