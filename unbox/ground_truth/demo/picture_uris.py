"""Pictures for the report, as data URIs, so that the page is one file."""

import base64
import io

import numpy as np
from PIL import Image

#: The heat colour (RGB) and how opaque it is at a feature's peak.
HEAT, OPAQUE = (255, 92, 24), 0.85


def uri(image: Image.Image | np.ndarray) -> str:
    """A picture (uint8 (H, W, 3) or PIL) as a WebP data URI."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, "WEBP", quality=88, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def heated(image: Image.Image, heat: np.ndarray, peak: float) -> Image.Image:
    """The picture, greyed, under a map (y, x) of activations; `peak` is the scale of a feature's maps."""
    scale = np.clip(heat / max(peak, 1e-9), 0, 1).astype(np.float32)
    cover = Image.fromarray((255 * OPAQUE * scale).astype(np.uint8)).resize(
        image.size, Image.Resampling.BICUBIC
    )
    grey = image.convert("L").convert("RGB")
    return Image.composite(Image.new("RGB", image.size, HEAT), grey, cover)
