"""The aspect-ratio buckets that SDXL was trained on."""

import math

from unbox.validation import Positive, Side, checked

#: SDXL's training sizes, (height, width): multiples of 64 near 1024^2 pixels (arXiv 2307.01952, appendix I).
BUCKETS: tuple[tuple[int, int], ...] = (
    *((512, w) for w in (2048, 1984, 1920, 1856)),
    *((576, w) for w in (1792, 1728, 1664)),
    *((640, w) for w in (1600, 1536)),
    *((704, w) for w in (1472, 1408, 1344)),
    *((768, w) for w in (1344, 1280)),
    *((832, w) for w in (1216, 1152)),
    *((896, w) for w in (1152, 1088)),
    *((960, w) for w in (1088, 1024)),
    *((1024, w) for w in (1024, 960)),
    *((1088, w) for w in (960, 896)),
    *((1152, w) for w in (896, 832)),
    *((1216, w) for w in (832,)),
    *((1280, w) for w in (768,)),
    *((1344, w) for w in (768,)),
    *((h, 704) for h in (1408, 1472)),
    *((h, 640) for h in (1536, 1600)),
    *((h, 576) for h in (1664, 1728, 1792)),
    *((h, 512) for h in (1856, 1920, 1984, 2048)),
)


def nearest_bucket(height: float, width: float, *, side: int = 1024) -> tuple[int, int]:
    """The bucket whose aspect ratio is nearest (in its logarithm), scaled to a model of native `side`.

    `height` and `width` in any unit: only their ratio counts. Scaled sizes are rounded to multiples of 8.
    """
    height = checked(Positive, "height", height, "nearest_bucket")
    width = checked(Positive, "width", width, "nearest_bucket")
    side = checked(Side, "side", side, "nearest_bucket")
    wanted = math.log(height) - math.log(width)
    h, w = min(BUCKETS, key=lambda size: abs(math.log(size[0] / size[1]) - wanted))
    return (h, w) if side == 1024 else (_scaled(h, side), _scaled(w, side))


def _scaled(length: int, side: int) -> int:
    return max(8, round(length * side / 1024 / 8) * 8)
